"""The vocabulary and the parts of Triptych; imports none of the other rooms."""
