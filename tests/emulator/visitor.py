"""A person's browser without scripts: it reads pages, fills forms in and follows where they lead."""

from html.parser import HTMLParser
from urllib.parse import urlencode, urlsplit

from stripe_emulator import Emulator, Reply, Request
from stripe_emulator.hosted.pages import HostedPages

VOID = {"input", "meta"}


class Page(HTMLParser):
    """A page as a person meets it: its text, links, form and labels."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.status, self.headers = reply.status, reply.headers
        self.source = reply.body.decode()
        self.words: list[str] = []
        self.links: dict[str, str] = {}
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.choices: list[str] = []
        self.buttons: list[str] = []
        self.inputs: list[dict] = []
        self.labelled: set[str] = set()
        self.tags: list[str] = []
        self._open: list[tuple[str, dict]] = []
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append((tag, given))
        if tag == "form":
            self.action = given["action"]
        elif tag == "label" and "for" in given:
            self.labelled.add(given["for"])
        elif tag == "input":
            inside = any(name == "label" for name, _ in self._open)
            self.inputs.append({**given, "inside": inside})
            if given["type"] == "radio":
                self.choices.append(given["value"])
            if given["type"] != "radio" or "checked" in given:
                self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag):
        name, _ = self._open.pop()
        assert name == tag, f"{tag} closes {name}"

    def handle_data(self, data):
        tags = [name for name, _ in self._open]
        if {"style", "title"} & set(tags) or not data.strip():
            return
        self.words.append(data.strip())
        for name, given in self._open:
            if name == "a":
                self.links[data.strip()] = given["href"]
            elif name == "button":
                self.buttons.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def unlabelled(self) -> list[dict]:
        return [
            each
            for each in self.inputs
            if each["type"] != "hidden"
            and not each["inside"]
            and each.get("id") not in self.labelled
        ]


class Visitor:
    """One person at the pages of an emulator."""

    def __init__(self, emulator: Emulator) -> None:
        self.pages = HostedPages(emulator)

    def open(self, url: str) -> Page:
        return self._page(self.pages.handle(Request("GET", urlsplit(url).path)))

    def send(self, page: Page, **entered: str) -> Page:
        body = urlencode({**page.fields, **entered}).encode()
        return self._page(self.pages.handle(Request("POST", page.action, body=body)))

    def follow(self, page: Page) -> Page:
        assert page.status == 303
        return self.open(page.headers["Location"])

    @staticmethod
    def _page(reply: Reply) -> Page:
        page = Page(reply)
        if page.status != 303:
            assert page._open == []
            assert page.headers["Cache-Control"] == "no-store"
            assert "script" not in page.tags
            assert page.unlabelled() == []
            assert "width=device-width" in page.source
            assert "<html lang=en>" in page.source
        return page
