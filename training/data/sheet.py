"""A CSV or Parquet file as text by column, whatever program wrote it."""

import codecs
import csv
import io
import locale
import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from training.recipe import UserError, first_line

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# What Excel and its like write where they do not write UTF-8.
CODE_PAGES = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp932", "gb18030", "big5", "cp949", "mac_roman")
SAVE = "save it as UTF-8 (in Excel: Save As, CSV UTF-8; in LibreOffice: Save As, Edit filter settings)"
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
MOST_MESS = 0.5  # charset_normalizer's measure: accented words have up to .4, words in a wrong alphabet from .6 on
EMPTY = {"", "nan", "<na>", "#n/a", "null", "none"}  # what pandas, Excel and databases write where there is no value


@dataclass(frozen=True)
class Sheet:
    """Stripped values by column name, all columns of one length; an empty string where there is none."""

    columns: dict[str, list[str]]
    numbers: list[int]  # of the rows, as the program shows them that opens the file
    too_long: list[int]  # numbers of rows with more values than there are columns, which are not in `columns`
    how: str = ""  # what had to be found out to read it


def read_sheet(path: Path) -> Sheet:
    """The columns of a .csv, .tsv or .parquet file.

    Raises:
        UserError: it is not there, empty, no such file, of an unknown encoding, or has no header or no rows.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"table '{path}' cannot be opened ({error.strerror}); give its path with --data_dir") from error
    if not content:
        raise UserError(f"table '{path}' is empty; expected a header such as path,label and a row for each image")
    sheet = _parquet(path, content) if path.suffix.lower() == ".parquet" else _csv(path, content)
    if not sheet.numbers:
        raise UserError(f"table '{path}' has no rows, only the columns {', '.join(sheet.columns)}; add one per image")
    return sheet


def _parquet(path: Path, content: bytes) -> Sheet:
    import pyarrow
    from pyarrow import parquet, types

    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"table '{path}' is no Parquet file, or a broken one: {first_line(error)}") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise UserError(f"table '{path}' has two columns of one name: {', '.join(table.column_names)}; rename one")
    columns = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        if types.is_struct(kind) and "bytes" in [each.name for each in kind]:
            raise UserError(
                f"table '{path}' holds the images themselves, in column '{name}', not their paths; write them out into "
                "one folder a class and give that with --data_dir, or put it on the Hub and use --dataset"
            )
        if not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)):
            columns[name] = [_text(value) for value in table[name].to_pylist()]
    return Sheet(columns, list(range(1, table.num_rows + 1)), [])


def _text(value: object) -> str:
    """A number as people write it: pandas makes 3.0 of 3 in a column where one value is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else _stripped(str(value))


def _stripped(value: str) -> str:
    value = value.strip()
    return "" if value.lower() in EMPTY else value


def _csv(path: Path, content: bytes) -> Sheet:
    text, encoding = _decoded(path, content)
    separator, text = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=None), delimiter=separator, strict=True)
    try:
        header, *rows = reader
    except csv.Error as error:
        raise UserError(
            f"table '{path}' cannot be read in line {reader.line_num}: {error}; is a quotation mark left open "
            "or one too many?"
        ) from error
    header = [name.strip() for name in header]
    names = [name for name in header if name]
    if len(set(names)) < len(names):
        raise UserError(f"table '{path}' has two columns of one name: {', '.join(names)}; rename one")
    kept, numbers, too_long = [], [], []
    for number, row in enumerate(rows, 2):
        if not any(value.strip() for value in row):
            continue
        if any(value.strip() for value in row[len(header) :]):
            too_long.append(number)
        else:
            kept.append([*row, *[""] * (len(header) - len(row))])
            numbers.append(number)
    columns = {name: [_stripped(row[position]) for row in kept] for position, name in enumerate(header) if name}
    how = [f"read as {encoding}"] if encoding else []
    how += [f"separated by {SEPARATORS[separator]}s"] if separator != "," and path.suffix.lower() != ".tsv" else []
    return Sheet(columns, numbers, too_long, ", ".join(how))


def _separator(text: str) -> tuple[str, str]:
    """What stands between the values, and the text after the line `sep=;` in which Excel may say so."""
    line, _, rest = text.partition("\n")
    said = re.fullmatch(r'"?sep=([,;\t])"?', line.strip("\r"))
    if said:
        return said[1], rest
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS, key=unquoted.count), text


def _decoded(path: Path, content: bytes) -> tuple[str, str]:
    """The text of a table, and the name of its encoding if that is anything but plain UTF-8."""
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"table '{path}' is an Excel or zip file, whatever its name says; {SAVE}")
    encoding = next((codec for bom, codec in BOMS.items() if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise UserError(f"table '{path}' begins as {encoding} and goes on otherwise ({error}); {SAVE}") from error
        encoding = _guessed(path, content)
        text = content.decode(encoding)
    if re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text):
        raise UserError(f"table '{path}' is no text, whatever its name says; give a .csv, .tsv or .parquet file")
    if not text.strip():
        raise UserError(f"table '{path}' is empty; expected a header such as path,label and a row for each image")
    return text.lstrip("\r\n"), "" if encoding in ("utf-8", "utf-8-sig") else encoding


def _guessed(path: Path, content: bytes) -> str:
    """The one code page in which the words that are not ASCII make sense; a wrong one would misspell the classes.

    charset_normalizer's own choice is no help: of few words it takes the first that fits, and reads forêt as foręt.
    """
    if b"\0" in content:
        raise UserError(f"table '{path}' is no text, whatever its name says; give a .csv, .tsv or .parquet file")
    # The ASCII around them says nothing of the encoding: they are looked at alone, and each once.
    words = sorted(set(re.findall(rb'[^\s,;"/]*[\x80-\xff][^\s,;"/]*', content)))
    spelt: dict[tuple[str, ...], str] = {}
    for encoding in CODE_PAGES:
        try:
            text = tuple(word.decode(encoding) for word in words)
        except UnicodeDecodeError:
            continue
        if _makes_sense(text):
            spelt.setdefault(text, encoding)
    if len(spelt) == 1:
        return spelt.popitem()[1]
    own = codecs.lookup(locale.getencoding()).name
    if own in spelt.values():  # whoever wrote it on this machine wrote it so
        return own
    if not spelt:
        raise UserError(f"table '{path}' is neither UTF-8 nor in another encoding that can be told; {SAVE}")
    differs = next(line for line in zip(*spelt, strict=True) if len(set(line)) > 1)
    told = " or ".join(f"{encoding} ('{word}')" for encoding, word in zip(spelt.values(), differs, strict=True))
    raise UserError(f"table '{path}' is not UTF-8, and could be {told}; {SAVE}")


def _makes_sense(words: tuple[str, ...]) -> bool:
    """Whether people write such words: none in letters of two scripts, as Blьte, or as G‰nse, forÍt, or ðîçà."""
    from charset_normalizer.md import mess_ratio

    text = "\n".join(words)
    for word in set(re.findall(r"[^\W\d_]+", text)):
        scripts = {unicodedata.name(letter, "?").split()[0].split("-")[0] for letter in word}
        if len({"CJK" if script in ("HIRAGANA", "KATAKANA") else script for script in scripts}) > 1:
            return False
    if re.search(r"[^\W\d_][^\w\s\x00-\x7f’–—·]+[^\W\d_]", text):
        return False
    if any(one.islower() and two.isupper() and not two.isascii() for one, two in pairwise(text)):
        return False
    return mess_ratio(text, MOST_MESS) < MOST_MESS
