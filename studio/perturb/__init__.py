"""Perturbations at five strengths, one file each; the file name is the registry.

A perturbation is a function ``perturb``. Its first argument is what it changes, the second the random numbers
it may draw, the third how far it goes, one of the file's five ``LEVELS`` in its ``UNIT``:

    perturb(picture, draw, level)              a PIL picture, RGB
    perturb(samples, draw, level, rate)        a sound [T] in [-1, 1], ``rate`` samples per second
    perturb(text, draw, level)                 what the user says; with ``LAST`` only the last piece of it

One that takes ``others`` after these gets sounds [T] of other rows. The draws of a row are the same at every
strength, so that its distortion grows; strength 0 changes nothing. After ImageNet-C (Hendrycks and Dietterich
2019, arXiv:1903.12261): what a user would still answer alike is what is done to pictures, sounds and
questions, and answers stay as they are.
"""
