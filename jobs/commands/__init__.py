"""What each command of ``patchcert`` takes; what it does is the job of its name.

One import a group, so that a command is here when its module is.
"""
