"""Answer as a service with OpenAI's protocol of chat completions, one model a variant."""

from __future__ import annotations

import argparse
import sys

from apps.choices import memory_argument, memory_of, model_arguments, one_base, read_choices

EXAMPLE = (
    "triptych serve nano-omni textiles=runs/textiles --port 8000\n"
    "triptych serve nano-omni runs/demo/merges/ties --key-file keys.txt --host 0.0.0.0\n"
    'curl localhost:8000/v1/chat/completions -d \'{"model": "nano-omni", "messages": [{"role": "user", '
    '"content": "hello"}]}\' -H "Content-Type: application/json"'
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    model_arguments(parser, nargs="+")
    parser.add_argument("--port", type=int, default=8000, help="first port to try (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    memory_argument(parser)
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help="sha256 hashes of the keys that may ask, one a line, a name after each; needed beyond loopback",
    )
    parser.add_argument(
        "--new-key", metavar="NAME", help="print a fresh key for NAME, add its hash to the key file, and end"
    )


def run(options: argparse.Namespace) -> int:
    """Load the variants and serve them until Ctrl-C."""
    from pathlib import Path

    from apps.api.keys import add_key, admission
    from studio.errors import TriptychError

    keys = Path(options.key_file) if options.key_file else None
    if options.new_key:
        if keys is None:
            raise TriptychError("--new-key needs --key-file, the file its hash is added to")
        print(add_key(keys, options.new_key))
        return 0
    from apps.web.server import free_port, is_loopback

    if keys is None and not is_loopback(options.host):
        raise TriptychError(
            f"to listen on {options.host}, name a --key-file; without one only this machine may ask"
        )
    admit = admission(keys) if keys else None
    base, variants = one_base(read_choices(options.models))
    port = free_port(options.host, options.port)

    from apps.api import build, serve
    from studio.training.threads import set_threads
    from studio.variants import Engine

    set_threads()
    memory = memory_of(options)
    print(
        f"Answering as {', '.join(variants)} at http://{options.host}:{port}/v1", file=sys.stderr, flush=True
    )
    serve(build(Engine(base, variants, memory=memory), admit=admit), options.host, port)
    return 0
