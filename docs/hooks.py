"""Hooks of `make docs`: set formulas and turn notebooks into pages.

Both happen when the pages are made, and nothing is fetched. KaTeX, its style
and its fonts come from the wheel of djangocms-katex, of which nothing is
imported. V8 (mini-racer) runs KaTeX here, so a reader's browser runs no script
for a formula, and a formula that does not parse stops the build. A notebook
becomes one page of Markdown: its text, its code, its committed outputs.
"""

import base64
import html
import importlib.util
import json
import pathlib
import re
from functools import cache
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">'
    r"(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>([.,;:)]*)",
    re.S,
)
# characters of a formula that stays on one line with the punctuation behind it
SHORT = 30


def katex() -> pathlib.Path:
    """Return the folder of the installed KaTeX."""
    found = importlib.util.find_spec("djangocms_katex")
    if found is None or not found.submodule_search_locations:
        raise PluginError(
            "KaTeX: djangocms-katex is not installed; "
            "`make docs` installs what the pages need"
        )
    root = pathlib.Path(found.submodule_search_locations[0])
    return root / "static" / "djangocms_katex" / "vendor" / "katex"


@cache
def engine() -> Any:
    """Return V8 with KaTeX in it."""
    from py_mini_racer import MiniRacer

    context = MiniRacer()
    context.eval("var self = this;")  # KaTeX looks for a window
    context.eval((katex() / "katex.min.js").read_text("utf-8") + "\n;0")
    return context


@cache
def formula(tex: str, display: bool) -> str:
    """Return a formula as HTML, with MathML beside it for screen readers.

    Raises:
        PluginError: the formula does not parse.
    """
    options = {"displayMode": display, "strict": "error"}
    try:
        return engine().call("katex.renderToString", tex, options)
    except Exception as error:  # V8's own type: the formula says more
        message = f"the formula {tex!r} does not parse: {error}"
        raise PluginError(message) from error


def _printed(text: str) -> list[str]:
    return (
        [f"```{{.text .output}}\n{text.rstrip()}\n```"] if text.strip() else []
    )


def as_markdown(
    notebook: dict[str, Any], stem: str
) -> tuple[str, dict[str, bytes]]:
    """Return the page of a notebook, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))
            continue
        parts.append(f"```python\n{source}\n```")
        text = ""
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts += _printed(text)
                text = ""
                alt = f"Picture {len(pictures)} of this notebook"
                parts.append(f"![{alt}]({name})")
            elif "text/html" in data:
                parts += _printed(text)
                text = ""
                markup = "".join(data["text/html"])
                parts.append(f'<div class="output">{markup}</div>')
            else:
                text += "".join(output.get("text", data.get("text/plain", [])))
        parts += _printed(text)
    title, _, rest = "\n\n".join(parts).partition("\n")
    name = f"{stem}.ipynb"
    said = f"*This page is a notebook, shown as it ran: [{name}]({name}).*"
    return f"{title}\n\n{said}\n{rest}\n", pictures


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add notebooks, their pictures, and the style and fonts of formulas."""

    def copy(to: str, path: pathlib.Path) -> None:
        files.append(File.generated(config, to, abs_src_path=str(path)))

    copy("katex/katex.min.css", katex() / "katex.min.css")
    for font in sorted((katex() / "fonts").glob("*.woff2")):
        copy(f"katex/fonts/{font.name}", font)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        copy(f"notebooks/{path.name}", path)
        notebook = json.loads(path.read_text("utf-8"))
        page, pictures = as_markdown(notebook, path.stem)
        made = {f"{path.stem}.md": page, **pictures}
        for name, content in made.items():
            to = f"notebooks/{name}"
            files.append(File.generated(config, to, content=content))
    return files


def on_page_content(
    content: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Set the formulas of a page."""

    def put(match: re.Match[str]) -> str:
        tex = match[2] if match[2] is not None else match[3]
        done = formula(html.unescape(tex).strip(), match[3] is not None)
        if match[3] is not None:
            return f'<div class="formula">{done}</div>{match[4]}'
        if match[4] and len(tex) <= SHORT:  # no line begins with a full stop
            return f'<span class="whole">{done}{match[4]}</span>'
        return done + match[4]

    content = FORMULA.sub(put, content)
    if "arithmatex" in content:
        raise PluginError(f"{page.file.src_uri}: a formula was left as written")
    return content
