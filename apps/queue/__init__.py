"""Training jobs that wait for their turn: folders on disk, processes of their own, no program that must run.

    queue = Queue(Path("runs/queue"))
    queue.add(title="cloth", words=["sft", "data=textiles", "output=runs/cloth"], output=Path("runs/cloth"))
    queue.go_on()                       # settle what has ended, start what may start

    runs/queue/0001-textiles/job.json   what is asked for; never changed
                             settings.json, where they are many
                             state.json where it stands, its process and when that began
                             log.txt    all it says
                             stage.json how far its stage is, for a page
                             held       locked for as long as its process lives

Any program may look at the folder, add to it, and be killed: whoever calls `go_on` next, an app, a command
or a job that has ended, starts the next one. A lock on the folder lets one of them do so at a time.
"""

from apps.queue.jobs import STATES, Job, Stage, Standing
from apps.queue.line import Queue

__all__ = ["STATES", "Job", "Queue", "Stage", "Standing"]
