"""Augmentation, one file each step; the file name is the registry.

A step is a function ``augment``. Its first argument is what it changes, the second the random numbers it may
draw, and its keyword-only arguments are its settings, with the range of each in its annotation:

    augment(samples, draw, rate, *, ...)     a sound [T] in [-1, 1], ``rate`` samples per second
    augment(picture, draw, *, ...)           a PIL picture, RGB
    augment(text, draw, *, ...)              what the user says; answers stay as they are
    augment(features, draw, *, ...)          what an extractor made of a sound [C, T], as far as heard

A recipe lists them: ``augment: [{speed: {factor: [0.9, 1.1]}}, {noise: {p: 0.5}}]``. Every step takes ``p``,
how probable it is, and those for pictures ``labels``, which holds a row's words against it (`Guard`). What a
step draws is a function of the seed, the epoch, the row and the step's place in the list alone.
"""
