"""The report of an evaluation folder: one self-contained page, and the same as JSON.

evaluation   reads the folder that `triptych eval --out` and what works on it have written
retention    what a merge kept of what the experts score at home
gains        what each variant gained or lost against a baseline, with p-values adjusted for their number
calibration  how sure the answers are, and how often they are right
regressions  the samples that lost most
embed        pictures and sounds as parts of a page, bounded in size
assemble     all of that as one `Report`, and as JSON
parts, cards, page   the same to look at
"""
