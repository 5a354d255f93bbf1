"""Commands of a platform as templates: words with ``{fields}``, each filled word one argument (pure)."""

import string
from collections.abc import Collection, Mapping, Sequence

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.template import fields_of, words_of

Value = str | int | Sequence[str]


class Template:
    """One command.

    A word that is nothing but a field, or has one in it, stays one argument whatever the value; no shell sees it. A
    word with a field that has several values (``--mount={storage}``) is repeated for each, and left out if there are
    none.

    Args:
        what: which command it is, for messages.
        words: the template: a list of words, or one text that is split like a command line.
        known: fields that it may use.
        needed: fields of which it must use at least one; empty: none.

    Raises:
        Refused: it can never be filled.
    """

    def __init__(
        self, what: str, words: str | Sequence[str], known: Collection[str], needed: Collection[str] = ()
    ) -> None:
        command = words if isinstance(words, str) else list(words)
        try:
            self.words = words_of(command)
            self.fields = fields_of(command)
        except ValueError as error:
            raise Refused(f"{what}: {str(error).removeprefix('command: ')}") from None
        unknown = sorted(self.fields - set(known))
        if unknown:
            listed = ", ".join(sorted(known))
            raise Refused(f"{what}: {{{unknown[0]}}} is no field; known are {listed} (write {{{{ for a literal brace)")
        if needed and not self.fields & set(needed):
            raise Refused(f"{what}: names none of {', '.join(f'{{{name}}}' for name in needed)}; say where it goes")
        program = self.words[0]
        if not program or "{" in program.replace("{{", "") or program.startswith("-"):
            raise Refused(f"{what}: begins with {program!r}, which is no program")

    def fill(self, values: Mapping[str, Value]) -> list[str]:
        """The argv.

        Raises:
            Refused: a word has two fields with several values, or a field has none.
        """
        argv = []
        for word in self.words:
            names = [name for _, name, _, _ in string.Formatter().parse(word) if name]
            missing = [name for name in names if name not in values]
            if missing:
                raise Refused(f"{' '.join(self.words)[:80]}: {{{missing[0]}}} has no value; give it one in the block")
            many = [name for name in names if not isinstance(values[name], str | int)]
            if len(many) > 1:
                raise Refused(f"{word!r}: has {len(many)} fields with several values; one word can have one")
            if not many:
                argv.append(word.format_map({name: values[name] for name in names}))
                continue
            several = values[many[0]]
            assert not isinstance(several, str | int)  # noqa: S101
            argv += [word.format_map({**{name: values[name] for name in names}, many[0]: one}) for one in several]
        return argv
