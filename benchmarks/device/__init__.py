"""Everything to check and measure on a bigger machine, in one command: `python -m benchmarks.device`.

Written for one NVIDIA GPU and some 16 CPU cores that are at hand for half an hour. Stages (`--list`) run one after the
other, the most telling measurements first, and every result is a line of JSON on disk before the next one starts.

* `jobs`, `lines`, `supervise`: a stage is a list of jobs; each leaves one line; a process that dies or hangs costs one job.
* `where`: what machine a line was measured on.
* `checks_*`, `compare`: is it right?  `sides`, `plain`, `timing`: how fast is it?
* `stages` and `stage_*`: which jobs there are.  `report`: tables out of lines.
"""
