"""Hooks of `make docs`: formulas set by KaTeX and notebooks as pages, both at build time, with nothing fetched.

KaTeX, its style and its fonts come from the wheel of djangocms-katex, of which nothing is imported; V8 (mini-racer)
runs it here, so a reader's browser runs no script for a formula and a formula that does not parse stops the build.
A notebook becomes one page of Markdown: its text, its code and the outputs that were committed with it.
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
FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.S)


def katex() -> pathlib.Path:
    """Return the folder of the installed KaTeX."""
    found = importlib.util.find_spec("djangocms_katex")
    if found is None or not found.submodule_search_locations:
        raise PluginError("KaTeX: djangocms-katex is not installed; `make docs` installs what the pages need")
    return pathlib.Path(found.submodule_search_locations[0]) / "static" / "djangocms_katex" / "vendor" / "katex"


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
    """Return a formula as HTML, with MathML beside it for screen readers; raise an error if it does not parse."""
    try:
        return engine().call("katex.renderToString", tex, {"displayMode": display, "strict": "error"})
    except Exception as error:  # whatever V8 raises: the page and the formula are what helps
        raise PluginError(f"the formula {tex!r} does not parse: {error}") from error


def as_markdown(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """Return the page of a notebook, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace("](../docs/", "](../"))
            continue
        parts.append(f"```python\n{source}\n```")
        printed = ""
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts += [f"```{{.text .output}}\n{printed.rstrip()}\n```"] if printed else []
                printed = ""
                parts.append(f"![Picture {len(pictures)} of this notebook]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{"".join(data["text/html"])}</div>')
            else:
                printed += "".join(output.get("text", data.get("text/plain", [])))
        if printed.strip():
            parts.append(f"```{{.text .output}}\n{printed.rstrip()}\n```")
    head, _, rest = "\n\n".join(parts).partition("\n")
    download = f"*This page is a notebook, shown as it ran: [{stem}.ipynb]({stem}.ipynb).*"
    return f"{head}\n\n{download}\n{rest}\n", pictures


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, their pictures and what a formula's style needs."""
    files.append(File.generated(config, "katex/katex.min.css", abs_src_path=str(katex() / "katex.min.css")))
    for font in sorted((katex() / "fonts").glob("*.woff2")):
        files.append(File.generated(config, f"katex/fonts/{font.name}", abs_src_path=str(font)))
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page, pictures = as_markdown(json.loads(path.read_text("utf-8")), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the formulas of a page."""

    def put(match: re.Match[str]) -> str:
        tex = match[2] if match[2] is not None else match[3]
        done = formula(html.unescape(tex).strip(), match[3] is not None)
        return done if match[3] is None else f'<div class="formula">{done}</div>'

    content = FORMULA.sub(put, content)
    if "arithmatex" in content:
        raise PluginError(f"{page.file.src_uri}: a formula was left as it was written")
    return content
