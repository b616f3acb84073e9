import pytest

from barreleye.export.joined import joined


@pytest.fixture
def folder(tmp_path):
    def write(**sources):
        (tmp_path / "parts").mkdir(exist_ok=True)
        for name, source in sources.items():
            (tmp_path / f"{name.replace('_', '/')}.js").write_text(source)
        return tmp_path

    return write


def test_what_is_imported_comes_first_and_once(folder):
    at = folder(
        page='import { twice } from "./parts/twice.js";\nimport { one } from "./one.js";\nexport const page = 1;\n',
        parts_twice='import { one } from "../one.js";\nexport function twice(x) {\n  return one + x;\n}\n',
        one="const hidden = 1;\nexport const one = hidden;\nexport class Other {}\nexport async function* all() {}\n",
    )
    text = joined("page.js", at)
    assert [text.index(f'modules["{name}"] =') for name in ("one.js", "parts/twice.js", "page.js")] == sorted(
        text.index(f'modules["{name}"] =') for name in ("one.js", "parts/twice.js", "page.js")
    )
    assert text.count("const hidden = 1;") == 1 and "return { one, Other, all };" in text
    assert 'const { one } = modules["one.js"];' in text and "import" not in text and "export" not in text


@pytest.mark.parametrize(
    "source",
    [
        'import one from "./one.js";\n',
        'import * as one from "./one.js";\n',
        'import { one } from "https://example.org/one.js";\n',
        "export default 1;\n",
        "const one = await import(name);\n",
    ],
)
def test_any_other_form_is_refused_by_its_line(folder, source):
    with pytest.raises(ValueError, match=r"page.js: .* is no named import or export"):
        joined("page.js", folder(page=source, one="export const one = 1;\n"))


def test_a_circle_is_refused(folder):
    at = folder(
        a='import { b } from "./b.js";\nexport const a = b;\n', b='import { a } from "./a.js";\nexport const b = a;\n'
    )
    with pytest.raises(ValueError, match=r"a\.js imports itself, by way of b\.js"):
        joined("a.js", at)


def test_the_page_of_the_house_can_be_joined():
    text = joined("file.js")
    assert 'modules["engine.js"]' in text and 'modules["elements/chat-box.js"]' in text
    assert "</script" not in text.lower() and "innerHTML" not in text
