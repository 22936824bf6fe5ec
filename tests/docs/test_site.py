"""The site: built strictly, complete, and whole without a network."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs import tables
from tests.docs.commands import ROOT

SOURCES = ("docs", "README.md", "CHANGELOG.md", "SECURITY.md", "zensical.toml")
LOADING = {"src", "srcset", "data", "poster", "background"}  # attributes whose address is fetched


class Page(HTMLParser):
    """What a page fetches by itself, and where its links lead."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.ids.add(value)
            elif name in LOADING or (tag == "link" and name == "href"):
                self.fetched.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)


def build(source: Path) -> "subprocess.CompletedProcess[str]":
    """`make docs`, elsewhere."""
    return subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def copy_of_sources(directory: Path) -> Path:
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, directory / name)
        else:
            shutil.copy(source, directory / name)
    return directory


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    source = copy_of_sources(tmp_path_factory.mktemp("source"))
    done = build(source)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / "dist" / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of it. The page for what is not found is for servers, and has their addresses."""
    return {file: Page(file) for file in site.rglob("*.html") if file.name != "404.html"}


def test_every_page_of_the_handbook_is_in_the_site(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        page = site / source.relative_to(ROOT / "docs").with_suffix(".html")
        assert page.is_file(), source


def test_every_page_but_a_decision_is_in_the_navigation() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text())
    listed = set(re.findall(r"'([\w/-]+\.md)'", str(config["project"]["nav"])))
    present = {file.name for file in (ROOT / "docs").glob("*.md")}

    assert listed == present | {"adr/index.md"}


def test_the_site_loads_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        for address in page.fetched:
            assert not urlsplit(address).netloc, f"{file.name} fetches {address}"
            if not address.startswith("data:"):
                assert (file.parent / unquote(urlsplit(address).path)).exists(), address


def test_pictures_and_styles_load_nothing_from_elsewhere(site: Path) -> None:
    for file in (*site.rglob("*.css"), *site.rglob("*.svg")):
        text = file.read_text("utf-8")
        for address in re.findall(r"url\(['\"]?([^)'\"]+)|@import ['\"]([^'\"]+)", text):
            assert not urlsplit("".join(address)).netloc, f"{file.name}: {address}"


def test_no_picture_is_drawn_by_a_script_from_elsewhere() -> None:
    for file in (ROOT / "docs").rglob("*.md"):
        assert "```mermaid" not in file.read_text("utf-8"), file.name


def test_every_link_of_the_site_leads_somewhere(pages: dict[Path, Page]) -> None:
    followed = 0
    for file, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (file.parent / unquote(address.path)).resolve() if address.path else file
            assert target.exists(), f"{file.name}: {link}"
            if address.fragment and target in pages:
                fragment = unquote(address.fragment)
                assert fragment in pages[target].ids | {"__skip"}, f"{file.name}: {link}"
            followed += 1
    assert followed > 100


def test_the_quick_start_is_the_readmes(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "index.html").read_text("utf-8"))

    assert "make demo" in text
    assert ".venv/bin/medai infer film.dcm --user ada" in text
    assert "8&lt;--" not in text


def test_a_link_or_an_anchor_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    done = build(with_line(tmp_path, "[one](gone.md), [two](api.md#gone)"))

    assert done.returncode != 0
    assert "2 issues found" in done.stdout + done.stderr


def test_a_part_of_a_file_that_is_not_there_ends_the_build(tmp_path: Path) -> None:
    assert build(with_line(tmp_path, '--8<-- "GONE.md"')).returncode != 0


def with_line(directory: Path, line: str) -> Path:
    """A copy of the sources with one line more in a page."""
    page = copy_of_sources(directory) / "docs" / "scaling.md"
    page.write_text(f"{page.read_text()}\n{line}\n")
    return directory


def relative_links(file: Path) -> Iterator[str]:
    """Links of a page of Markdown that lead to files, without what stands in fences and code."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not urlsplit(link).scheme:
            yield link


def anchors(file: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    sorted(
        str(file.relative_to(ROOT)) for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    ),
)
def test_every_relative_link_leads_somewhere_on_a_forge_too(page: str) -> None:
    file = ROOT / page
    for link in relative_links(file):
        path, _, fragment = link.partition("#")
        target = file.parent / path if path else file
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target), link


@pytest.mark.parametrize(("page", "mark"), tables.TABLES)
def test_a_table_that_repeats_the_code_is_the_codes(page: str, mark: str) -> None:
    _, table, _ = tables.parts((tables.DOCS / page).read_text("utf-8"), mark)

    assert table == tables.TABLES[page, mark](), "run: python -m tests.docs.tables"


def test_every_decision_is_in_the_index_by_its_title() -> None:
    directory = ROOT / "docs" / "adr"
    index = (directory / "index.md").read_text("utf-8")
    for file in sorted(directory.glob("0*.md")):
        number, _, title = file.read_text("utf-8").partition("\n")[0].lstrip("# ").partition(" ")
        assert f"| [{number.rstrip('.:')}]({file.name}) | {title} |" in index


def test_commands_stand_in_fences_where_they_are_found() -> None:
    for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        text = re.sub(
            r"^(`{3,}).*?^\1$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
        )
        assert not re.search(r"^\n {4}\S", text, re.MULTILINE), f"{file.name}: an indented block"
