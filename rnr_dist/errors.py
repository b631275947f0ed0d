"""The one error that is the user's to mend: a sentence that names place, found and expected."""


class InputError(ValueError):
    """Bad input. The command line prints its sentence alone and exits with code 2."""
