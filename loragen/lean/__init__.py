"""The default way of `loragen generate` without torch, whose import takes longer than all the rest: numpy alone.

It follows the modules of the same names elsewhere, for the zoo that is bundled, and gives the same adapters up to
rounding. It reads what is whole and takes the straight way; whatever else it meets, it leaves to those modules.
"""
