"""Write the generated pages: ``python -m tools.reference``."""

from tools.reference.pages import FOLDER, pages


def main() -> None:
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: docs/reference/{name}")


if __name__ == "__main__":
    main()
