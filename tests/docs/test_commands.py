"""Every command of the handbook is run, or listed with the reason why not, and checked."""

import re

import pytest

from tests.docs.commands import ROOT, Command, commands, commands_of, pages
from tests.docs.listed import LISTED, Check, is_a_module, is_medai, is_ray, is_target, listing_of

ALL = [command for page in pages() for command in commands(page)]
NOT_RUN = [(command, listed) for command in ALL if (listed := listing_of(command)) is not None]


@pytest.mark.parametrize(("command", "listed"), NOT_RUN, ids=[str(one) for one, _ in NOT_RUN])
def test_a_command_that_is_not_run_names_what_exists(command: Command, listed: object) -> None:
    listing = listing_of(command)

    assert listing is listed
    assert listing is not None
    listing.check(command)


def test_every_listing_is_of_a_command_that_the_handbook_has() -> None:
    idle = [one for one in LISTED if not one.unless and one not in [used for _, used in NOT_RUN]]

    assert idle == []


def test_most_commands_are_run() -> None:
    run = len(ALL) - len(NOT_RUN)

    assert run > 50, f"{run} of {len(ALL)}"


BY_PROGRAM: dict[str, Check] = {
    "medai": is_medai,
    "make": is_target,
    "python -m": is_a_module,
    "ray": is_ray,
    "serve": is_ray,
}


@pytest.mark.parametrize(
    "page", [*pages(), *(f"docs/adr/{file.name}" for file in (ROOT / "docs" / "adr").glob("*.md"))]
)
def test_a_command_that_is_named_in_the_text_exists(page: str) -> None:
    for program, check in BY_PROGRAM.items():
        for named in re.findall(rf"`({program} [^`\n]+)`", (ROOT / page).read_text("utf-8")):
            check(Command(page, "", 0, named, python=False))


PAGE = """\
## One

```sh
# only a comment
make all   # its reason

cat <<'END' > file
make none
END
curl one \\
  two
echo 'a
b' |
  cat
```

## Two

```console
$ medai list
medai says this
```

```text
medai is not run
```

```python
# made.py
print("one")

print("two")
```
"""


def test_commands_are_found_whole_where_they_stand() -> None:
    found = list(commands_of(PAGE, "docs/page.md"))

    assert [(one.heading, one.line, one.text) for one in found] == [
        ("One", 5, "make all   # its reason"),
        ("One", 7, "cat <<'END' > file\nmake none\nEND"),
        ("One", 10, "curl one \\\n  two"),
        ("One", 12, "echo 'a\nb' |\n  cat"),
        ("Two", 20, "medai list"),
        ("Two", 29, '# made.py\nprint("one")\n\nprint("two")\n'),
    ]
    assert found[-1].saved_as == "made.py"


def test_a_fence_that_is_not_closed_is_a_fault() -> None:
    with pytest.raises(ValueError, match="not closed"):
        list(commands_of("```sh\nmake all\n", "docs/page.md"))


def test_a_new_command_is_not_taken_for_a_listed_one() -> None:
    for text in ("medai serve", "make demolition", "rm -rf /", "medai models list"):
        for page in ("README.md", "docs/new.md", "docs/api.md"):
            command = Command(page, "", 1, text, python=False)

            assert listing_of(command) is None
