"""Steps of curation: one file is one step, found by its name like everything else in this house.

A step has a frozen dataclass `Settings`, whose fields become YAML keys, and

    run(samples, settings, bench) -> Outcome

which looks at all rows that are left and returns edits: rows to remove or to change, each with a reason. A
step changes nothing itself, reads files only through the doors of `studio`, and gives the same edits for
the same rows, settings and seed. What it reads beyond the rows it names by content in ``inputs(settings)``.
The first line of its docstring says what it does; `triptych show` and the table of `recipes.curate` show it.
"""
