"""A table of paths and labels is read as whatever program wrote it; what does not fit is listed or told in one line."""

import csv
import json
import os
import shutil
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from conftest import write_photo
from PIL import Image
from test_intake import places, put

from training.data.intake import Example
from training.data.sheet import read_sheet
from training.data.source import Folder, open_local
from training.data.splits import make_splits, read_splits
from training.data.table import is_table, open_table
from training.recipe import Data, UserError, load_recipe
from training.train import main


def table(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """A file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


def read(path: Path, data: Data | None = None) -> tuple[list[Example], dict[str, str], Folder]:
    """Examples, the reason for each path or row that was skipped, and where they lie."""
    source = open_local([path], progress=False)
    examples, skipped = source.read(data or load_recipe("folder").data, progress=False)
    assert all((source.data_dir / example.path).is_file() and example.sha256 for example in examples)
    assert [example.path for example in examples] == sorted(example.path for example in examples)
    assert len({each.path for each in skipped}) == len(skipped)
    return examples, {each.path: each.reason for each in skipped}, source


def labels(path: Path, data: Data | None = None) -> dict[str, str]:
    return {example.path: example.label for example in read(path, data)[0]}


def refusal(path: Path, data: Data | None = None) -> str:
    with pytest.raises(UserError) as refused:
        read(path, data)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def refused_content(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return refusal(path)


# What a table says


def test_paths_labels_splits_and_groups(tmp_path):
    put(tmp_path, "images/1.png", "images/2.png", "images/3.png", "images/4.png")
    lines = ["images/1.png,cat,train,p1", "images/2.png,dog,train,p2", "images/3.png,cat,VAL,p3", "images/4.png,dog,,"]
    examples, skipped, source = read(table(tmp_path / "t.csv", "path,label,split,patient", *lines))
    assert {each.path: (each.label, each.split, each.group) for each in examples} == {
        "1.png": ("cat", "train", "p1"),
        "2.png": ("dog", "train", "p2"),
        "3.png": ("cat", "validation", "p3"),
        "4.png": ("dog", None, None),
    }
    assert skipped == {}
    assert source.data_dir == tmp_path / "images"
    assert source.table.told == (
        f"{tmp_path / 't.csv'}: path from 'path', label from 'label', split from 'split', group from 'patient'"
    )


@pytest.mark.parametrize("header", ["Image Path;Class;Set", "FILE_NAME;Species;subset", "img-name;LABEL;Partition"])
def test_columns_are_known_by_their_usual_names(header, tmp_path):
    put(tmp_path, "1.png", "2.png")
    examples, _, _ = read(table(tmp_path / "t.csv", header, "1.png;a b;train", "2.png;c;test set"))
    assert places(examples) == {"1.png": ("train", "a b"), "2.png": ("test", "c")}


def test_ham10000_as_it_is_published(tmp_path):
    """Ids without an ending, in two folders; two pictures of one lesion stay together."""
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    lines = []
    for i in range(40):
        put(tmp_path, f"HAM10000_images_part_{1 + i % 2}/ISIC_{i:07}.jpg")
        lines.append(f"HAM_{i // 2},ISIC_{i:07},{'nv' if i % 4 < 2 else 'mel'},histo,{i}.0,male,back")
    put(tmp_path, "segmentations/ISIC_0000000_segmentation.png")
    examples, skipped, source = read(table(tmp_path / "HAM10000_metadata.csv", header, *lines))
    assert source.data_dir == tmp_path
    assert Counter(example.label for example in examples) == {"nv": 20, "mel": 20}
    assert examples[0].path == "HAM10000_images_part_1/ISIC_0000000.jpg" and examples[0].group == "HAM_0"
    assert skipped == {"segmentations/ISIC_0000000_segmentation.png": "not in the table"}
    made, _ = make_splits(examples, load_recipe("folder").splits)
    sides = {row.group: set() for row in made}
    for row in made:
        sides[row.group].add(row.split)
    assert len(sides) == 20 and all(len(splits) == 1 for splits in sides.values())


def test_absolute_paths_of_another_machine_are_found_by_their_ends(tmp_path):
    for label in ("cat", "dog"):
        for i in range(6):
            put(tmp_path, f"photos/{label}/{i}.png")
    lines = [f"/content/drive/MyDrive/photos/cat/{i}.png,cat" for i in range(6)]
    lines += [rf"C:\Users\me\photos\dog\{i}.png,dog" for i in range(6)]
    found = labels(table(tmp_path / "t.csv", "path,label", *lines))
    assert found == {f"{label}/{i}.png": label for label in ("cat", "dog") for i in range(6)}


def test_folders_that_came_twice_are_no_riddle(tmp_path):
    """As HAM10000's do, in capitals and without: of equal files it does not matter which is meant."""
    lines = []
    for i in range(12):
        put(tmp_path, f"part_{1 + i % 2}/{i:03}.png")
        (tmp_path / f"again_{1 + i % 2}").mkdir(exist_ok=True)
        shutil.copy(tmp_path / f"part_{1 + i % 2}/{i:03}.png", tmp_path / f"again_{1 + i % 2}/{i:03}.png")
        lines.append(f"{i:03},{'ab'[i % 3 == 0]}")
    examples, skipped, _ = read(table(tmp_path / "t.csv", "image_id,dx", *lines))
    assert [example.path.split("/")[0] for example in examples] == ["again_1"] * 6 + ["again_2"] * 6
    assert set(skipped.values()) == {"not in the table"}


def test_a_class_that_a_program_wrote_as_a_broken_number_is_the_whole_one(tmp_path):
    for i in range(6):
        put(tmp_path, f"{i}.png")
    lines = [f"{i}.png,{label}" for i, label in enumerate(("0.0", "1", "1.0", "0", "#N/A", "null"))]
    examples, skipped, _ = read(table(tmp_path / "t.csv", "file,label", *lines))
    assert [example.label for example in examples] == ["0", "1", "1", "0"]
    assert list(skipped.values()) == ["no label", "no label"]


def test_patients_are_known_by_the_recipes_pattern_where_the_table_is_silent(tmp_path):
    names = [f"{name}-{number:03}" for name in ("SOB_B_A-14-22549AB-40", "SOB_M_DC-14-9146-40") for number in (1, 2)]
    for name in names:
        put(tmp_path, f"{name}.png")
    path = table(tmp_path / "t.csv", "file,label", *(f"{name}.png,{'BM'['_M_' in name]}" for name in names))
    examples, _, _ = read(path, load_recipe("breast_cancer").data)
    assert [example.group for example in examples] == ["14-22549AB"] * 2 + ["14-9146"] * 2


def test_a_mask_called_as_its_image_is_not_meant(tmp_path):
    put(tmp_path, "images/ISIC_1.jpg", "images/ISIC_2.jpg", "masks/ISIC_1.png", "masks/ISIC_2.png")
    examples, _, source = read(table(tmp_path / "t.csv", "image_id,dx", "ISIC_1,nv", "ISIC_2,mel"))
    assert places(examples) == {"ISIC_1.jpg": (None, "nv"), "ISIC_2.jpg": (None, "mel")}
    assert source.data_dir == tmp_path / "images"


def test_dog_breeds_as_kaggle_has_them(tmp_path):
    put(tmp_path, "train/0a1.jpg", "train/0b2.jpg", "test/0c3.jpg")
    examples, skipped, source = read(table(tmp_path / "labels.csv", "id,breed", "0a1,boxer", "0b2,saluki"))
    assert places(examples) == {"0a1.jpg": (None, "boxer"), "0b2.jpg": (None, "saluki")}
    assert (skipped, source.data_dir) == ({}, tmp_path / "train")


def test_isic_has_a_column_of_0_and_1_for_each_class(tmp_path):
    put(tmp_path, "input/ISIC_1.jpg", "input/ISIC_2.jpg", "input/ISIC_3.jpg")
    lines = ["ISIC_1,1.0,0.0,0.0,7", "ISIC_2,0.0,1.0,0.0,8", "ISIC_3,1.0,0.0,0.0,9"]
    path = table(tmp_path / "truth.csv", "image,MEL,NV,UNK,age", *lines)
    assert labels(path) == {"ISIC_1.jpg": "MEL", "ISIC_2.jpg": "NV", "ISIC_3.jpg": "MEL"}
    assert "label from the one of 3 columns that is 1" in open_table(path).told


def test_several_labels_a_row_are_not_understood_and_the_row_is_named(tmp_path):
    put(tmp_path, "1.png", "2.png")
    told = refusal(table(tmp_path / "t.csv", "image,cat,dog", "1.png,1,0", "2.png,1,1"))
    assert told.startswith(
        f"table '{tmp_path / 't.csv'}' has no column of labels; it has image, cat, dog (of cat, dog, not one is 1 in "
        "row 3, but 2); rename the one that is meant to 'label' (known are label, "
    )


def test_numbers_are_names_of_classes(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    path = table(tmp_path / "t.csv", "path,label", "1.png,0", "2.png,1", "3.png,10")
    assert labels(path) == {"1.png": "0", "2.png": "1", "3.png": "10"}
    assert labels(path, Data(class_names={"0": "benign", "1": "malignant"})) == {
        "1.png": "benign",
        "2.png": "malignant",
        "3.png": "10",
    }


def test_of_a_number_and_a_name_for_the_same_class_the_name_is_taken(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    path = table(tmp_path / "t.csv", "path,label,label_name", "1.png,0,cat", "2.png,1,dog", "3.png,0,cat")
    assert labels(path) == {"1.png": "cat", "2.png": "dog", "3.png": "cat"}


def test_the_recipe_may_name_the_splits(tmp_path):
    put(tmp_path, "1.png", "2.png")
    path = table(tmp_path / "t.csv", "image_id,label,partition", "1.png,a,0", "2.png,b,2")
    assert refusal(path) == (
        f"table '{path}' says the split '0'; allowed are train, validation and test: say in the recipe's `split_names` "
        "which one it is, or rename the column if it is not about splits"
    )
    examples, _, _ = read(path, Data(split_names={"0": "train", "1": "validation", "2": "test"}))
    assert places(examples) == {"1.png": ("train", "a"), "2.png": ("test", "b")}


def test_folds_are_splits_only_if_they_say_so(tmp_path):
    put(tmp_path, "1.png", "2.png")
    assert {e.split for e in read(table(tmp_path / "t.csv", "path,label,fold", "1.png,a,0", "2.png,b,1"))[0]} == {None}
    examples, _, _ = read(table(tmp_path / "t.csv", "path,label,fold", "1.png,a,train", "2.png,b,test"))
    assert {example.split for example in examples} == {"train", "test"}


def test_if_all_is_for_training_the_splits_are_made_here(tmp_path):
    put(tmp_path, "1.png", "2.png")
    path = table(tmp_path / "t.csv", "path,label,split", "1.png,a,train", "2.png,b,train")
    assert {example.split for example in read(path)[0]} == {None}


def test_of_patients_and_lesions_the_patients_stay_together(tmp_path):
    put(tmp_path, "1.png", "2.png", "3.png")
    lines = ["1.png,a,l1,p1", "2.png,b,l2,p1", "3.png,b,l3,p2"]
    assert [each.group for each in read(table(tmp_path / "t.csv", "path,label,lesion_id,patient_id", *lines))[0]] == [
        "p1",
        "p1",
        "p2",
    ]
    crossed = ["1.png,a,l1,p1", "2.png,b,l2,p1", "3.png,b,l1,p2"]
    path = table(tmp_path / "t.csv", "path,label,lesion_id,patient_id", *crossed)
    assert "several columns of groups, patient_id, lesion_id, and none holds the others; rename" in refusal(path)


# Where the files are


def test_paths_above_the_table_and_absolute_ones(tmp_path):
    put(tmp_path, "images/1.png", "far/away/2.png")
    lines = ["../images/1.png,a", f"{tmp_path / 'far' / 'away' / '2.png'},b"]
    examples, _, source = read(table(tmp_path / "tables" / "t.csv", "path,label", *lines))
    assert places(examples) == {"far/away/2.png": (None, "b"), "images/1.png": (None, "a")}
    assert source.data_dir == tmp_path


def test_paths_from_windows_and_the_end_of_a_path(tmp_path):
    put(tmp_path, "x/train/1.png", "x/test/1.png", "x/test/ü/2.png", "3.png")
    lines = [r"x\train\1.png,a", "test/1.png,b", "2.png,c", "./3.png,d"]
    assert labels(table(tmp_path / "t.csv", "path,label", *lines)) == {
        "3.png": "d",
        "x/test/1.png": "b",
        "x/test/ü/2.png": "c",
        "x/train/1.png": "a",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="a name may not hold it there")
def test_names_that_csv_has_to_quote(tmp_path):
    names = ["a, b.png", 'so "called".png', "new\nline.png", " blank .png", "100% #1.png"]
    put(tmp_path, *(f"images/{name}" for name in names))
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((f"images/{name}", f"class {name[0]}") for name in names)])
    assert set(labels(tmp_path / "t.csv")) == set(names)


def test_every_row_that_cannot_be_used_is_listed_with_its_reason(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "a/2.png", "a/3.png", "a/4.png", "a/5.png", "more/6.png", "a/7.jpg", "b/7.png")
    put(tmp_path, "a/8.png", "a/9.png", "b/10.png")
    (tmp_path / "a" / "9.png").write_bytes(b"")
    (tmp_path / "scan.dcm").write_bytes(b"DICM")
    lines = ["a/2.png,x,train", "b/10.png,y,train"]
    lines += ["1.png,x,train", "a,x,train", "gone.png,x,train", "a/4.png,,train", ",x,train", "scan.dcm,x,train"]
    lines += ["a/2.png,x,train", "a/5.png,x,train", "a/5.png,y,train", "7,x,train", "http://x.org/1.png,x,train"]
    lines += ["a/8.png,x,train", "a/8.png,x,test", "a/9.png,x,train", "a/3.png,y,train,more", ",,", ""]
    examples, skipped, _ = read(table(tmp_path / "t.csv", "path,label,split", *lines))
    assert places(examples) == {"a/2.png": (None, "x"), "b/10.png": (None, "y")}
    assert skipped == {
        "a/1.png": "not in the table",
        "a/3.png": "not in the table",
        "a/5.png": "two labels in the table: 'x' and 'y'",
        "a/7.jpg": "not in the table",
        "a/8.png": "two splits in the table: 'train' and 'test'",
        "a/9.png": "empty file",
        "b/1.png": "not in the table",
        "b/7.png": "not in the table",
        "more/6.png": "not in the table",
        "t.csv, row 4: 1.png": "several files fit: 'a/1.png' and 'b/1.png'; write the folder into the table",
        "t.csv, row 5: a": "a folder, not a file",
        "t.csv, row 6: gone.png": "no such file",
        "t.csv, row 7: a/4.png": "no label",
        "t.csv, row 8": "no path",
        "t.csv, row 9: scan.dcm": "not an image by its name: .dcm",
        "t.csv, row 10: a/2.png": "a file that the table has already",
        "t.csv, row 13: 7": "several files fit: 'a/7.jpg' and 'b/7.png'; write the folder into the table",
        "t.csv, row 14: http://x.org/1.png": "an address, not a file: download it first",
        "t.csv, row 18": "more values than columns",
    }


def test_images_far_from_the_table_are_looked_for_beside_the_named_ones_only(tmp_path):
    put(tmp_path, "one/1.png", "one/extra.png", "two/2.png", "other/3.png")
    path = table(tmp_path / "tables" / "t.csv", "path,label", "../one/1.png,a", "../two/2.png,b")
    assert read(path)[1] == {"one/extra.png": "not in the table"}


def test_a_file_named_in_two_ways_is_one_file(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png")
    lines = ["a/1.png,x", f"{tmp_path / 'a' / '1.png'},x", "a/2.png,y"]
    examples, skipped, _ = read(table(tmp_path / "t.csv", "path,label", *lines))
    assert len(examples) == 2
    assert skipped == {f"t.csv, row 3: {tmp_path / 'a' / '1.png'}": "a file that the table has already"}


# Encodings, separators, and Parquet

UMLAUTS = ("Gänseblümchen", "Löwenzahn", "Weiße Rose")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_all_programs(encoding, separator, tmp_path):
    put(tmp_path, *(f"{i}.png" for i in range(3)))
    lines = [f"{i}.png{separator}{name}" for i, name in enumerate(UMLAUTS)]
    path = table(tmp_path / "t.csv", f"path{separator}label", *lines, encoding=encoding)
    assert tuple(labels(path).values()) == UMLAUTS
    told = open_table(path).told
    assert ("read as" in told) == (encoding in ("utf-16", "cp1252"))
    assert ("separated by" in told) == (separator != ",")
    path = path.rename(path.with_suffix(".TSV"))
    assert tuple(labels(path).values()) == UMLAUTS


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-16-be", ("Blüte", "花")),
        ("cp1250", ("róża", "żółty", "ślimak")),
        ("cp1253", ("τριαντάφυλλο", "τουλίπα")),
        ("big5", ("玫瑰", "鬱金香")),
        ("mac_roman", ("Gänseblümchen", "Größe")),
    ],
)
def test_other_alphabets(encoding, names, tmp_path):
    put(tmp_path, *(f"{i}.png" for i in range(len(names))))
    lines = [f"{i}.png,{name}" for i, name in enumerate(names)]
    path = table(tmp_path / "t.csv", "path,label", *lines, encoding=encoding)
    if encoding == "utf-16-be":
        path.write_bytes(b"\xfe\xff" + path.read_bytes())
    assert tuple(labels(path).values()) == names


def test_an_encoding_that_could_be_two_is_not_guessed(tmp_path, monkeypatch):
    path = table(tmp_path / "t.csv", "path,label", "1.png,forêt", "2.png,été", encoding="cp1252")
    told = refusal(path)
    assert told.startswith(f"table '{path}' is not UTF-8, and could be ")
    assert "cp1252 ('forêt')" in told and "cp1250 ('foręt')" in told
    assert "; save it as UTF-8 (in Excel: Save As, CSV UTF-8; " in told
    put(tmp_path, "1.png", "2.png")
    monkeypatch.setattr("locale.getencoding", lambda: "cp1252")  # as on a Windows of France
    assert labels(path) == {"1.png": "forêt", "2.png": "été"}


def test_line_ends_blank_lines_and_the_line_that_excel_puts_before(tmp_path):
    put(tmp_path, "1.png", "2.png")
    for content in (
        b"path,label\r\n1.png,a\r\n\r\n2.png,b",
        b"path,label\r1.png,a\r2.png,b\r",
        b"sep=;\r\npath;label\r\n1.png;a\r\n2.png;b\r\n",
        b'\n"path",label ,\n"1.png",a,\n 2.png , b ,\n',
        b"path;note;label\n1.png;a,b,c,d;a\n2.png;;b\n",
    ):
        (tmp_path / "t.csv").write_bytes(content)
        assert labels(tmp_path / "t.csv") == {"1.png": "a", "2.png": "b"}


def test_the_rows_are_counted_as_a_spreadsheet_counts_them(tmp_path):
    sheet = read_sheet(table(tmp_path / "t.csv", "path,label", "1.png,a", "", '"2\n.png",b', "3.png,c,d", "4.png,d"))
    assert (sheet.numbers, sheet.too_long) == ([2, 4, 6], [5])


def test_parquet_with_numbers_categories_and_values_that_are_missing(tmp_path):
    import pandas

    put(tmp_path, "1.png", "2.png", "3.png")
    frame = pandas.DataFrame(
        {
            "file": ["1.png", "2.png", "3.png"],
            "label": [3, None, 4],
            "kind": pandas.Categorical(["x", "y", "x"]),
            "split": ["train", "test", None],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    examples, skipped, _ = read(tmp_path / "t.parquet")
    assert places(examples) == {"1.png": (None, "3"), "3.png": (None, "4")}
    assert skipped == {"t.parquet, row 2: 2.png": "no label"}
    frame.rename(columns={"label": "number", "kind": "label"}).to_parquet(tmp_path / "t.parquet")
    assert labels(tmp_path / "t.parquet") == {"1.png": "x", "2.png": "y", "3.png": "x"}


def test_a_parquet_file_of_the_images_themselves_is_told(tmp_path):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    write_photo(tmp_path / "1.png", 0.1, 1)
    features = Features(image=ImageFeature(), label=Value("string"))
    rows = {"image": [str(tmp_path / "1.png")], "label": ["a"]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
    assert "holds the images themselves, in column 'image', not their paths; write them out" in refusal(
        tmp_path / "t.parquet"
    )


# What stops it


def test_a_table_that_is_not_there(tmp_path):
    assert refusal(tmp_path / "no.csv") == (
        f"table '{tmp_path / 'no.csv'}' cannot be opened (No such file or directory); give its path with --data_dir"
    )


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf"])
def test_an_empty_table(content, tmp_path):
    assert refused_content(tmp_path / "t.csv", content) == (
        f"table '{tmp_path / 't.csv'}' is empty; expected a header such as path,label and a row for each image"
    )


def test_a_table_without_rows(tmp_path):
    assert refusal(table(tmp_path / "t.csv", "path,label")) == (
        f"table '{tmp_path / 't.csv'}' has no rows, only the columns path, label; add one per image"
    )


def test_a_table_without_a_header(tmp_path):
    put(tmp_path, "1.png", "2.png")
    assert refusal(table(tmp_path / "t.csv", "1.png,cat", "2.png,dog")) == (
        f"table '{tmp_path / 't.csv'}' has no header: it begins with 1.png, cat; put path,label above it"
    )


def test_a_table_without_known_columns(tmp_path):
    told = refusal(table(tmp_path / "t.csv", "picture,label", "1.png,cat"))
    assert "has no column of paths; it has picture, label; rename the one that is meant to 'path' (known are " in told
    put(tmp_path, "1.png", "2.png")
    told = refusal(table(tmp_path / "t.csv", "path,mood", "1.png,good", "2.png,bad"))
    assert "has no column of labels; it has path, mood; rename the one that is meant to 'label' (known are " in told


def test_what_is_no_text(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "1.png")
    for content in ((tmp_path / "1.png").read_bytes(), b"path,label\n\0\0\n", bytes(range(1, 256)) * 4):
        told = refused_content(tmp_path / "t.csv", content)
        assert told.startswith(f"table '{tmp_path / 't.csv'}' is n")
        assert "is no text, whatever its name says" in told or "save it as UTF-8" in told
    told = refused_content(tmp_path / "t.csv", b"\xff\xfep\0a\0t\0h\0,\0l\0\n")
    assert "begins as utf-16 and goes on otherwise" in told


def test_spreadsheets_are_to_be_saved_as_csv(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv", "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    assert "is an Excel or zip file, whatever its name says; save it as UTF-8" in refusal(tmp_path / "t.csv")
    for name in ("t.xlsx", "t.XLS", "t.ods"):
        assert refusal(tmp_path / name) == (
            f"'{tmp_path / name}' is a spreadsheet; save it as CSV UTF-8 (Save As) and give that with --data_dir"
        )


def test_broken_parquet(tmp_path):
    import pandas

    pandas.DataFrame({"path": ["1.png"] * 100, "label": ["a"] * 100}).to_parquet(tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    for content in (whole[:-20], whole[:20], b"PAR1", b"path,label\n1.png,a\n"):
        told = refused_content(tmp_path / "t.parquet", content)
        assert told.startswith(f"table '{tmp_path / 't.parquet'}' is no Parquet file, or a broken one: ")
    assert "is empty" in refused_content(tmp_path / "t.parquet", b"")


def test_a_quotation_mark_left_open(tmp_path):
    told = refusal(table(tmp_path / "t.csv", "path,label", '"1.png,a', "2.png,b"))
    assert told == (
        f"table '{tmp_path / 't.csv'}' cannot be read in line 3: unexpected end of data; is a quotation mark left "
        "open or one too many?"
    )


def test_a_measurement_is_no_class(tmp_path):
    put(tmp_path, *(f"{i}.png" for i in range(50)))
    lines = [f"{i}.png;{i / 7:.3f}".replace(".", ",").replace(",png", ".png") for i in range(50)]
    told = refusal(table(tmp_path / "t.csv", "path;label", *lines))
    assert "'label' is a number (0,143, 0,286, 0,429, …), not a class; divide it into classes" in told
    halves = table(tmp_path / "t.csv", "path,label", *(f"{i}.png,{i % 5 / 2}" for i in range(50)))
    assert set(labels(halves).values()) == {"0.0", "0.5", "1.0", "1.5", "2.0"}


def test_two_columns_that_could_be_meant(tmp_path):
    put(tmp_path, "1.png", "2.png", "x/3.png", "x/4.png")
    told = refusal(table(tmp_path / "t.csv", "path,species,diagnosis", "1.png,cat,ill", "2.png,cat,well"))
    assert "has several columns of labels, species, diagnosis; rename the one that is meant to 'label'" in told
    told = refusal(table(tmp_path / "t.csv", "file,image,label", "1.png,3.png,a", "2.png,4.png,b"))
    assert "has several columns that name files, file, image; rename the one that is meant to 'path'" in told
    told = refusal(table(tmp_path / "t.csv", "file,label,set,phase", "1.png,a,train,test", "2.png,b,train,train"))
    assert "has several columns of splits, set, phase; rename the one that is meant to 'split'" in told
    told = refusal(table(tmp_path / "t.csv", "file,label,label", "1.png,a,b"))
    assert "has two columns of one name: file, label, label; rename one" in told


def test_one_of_several_columns_is_taken_if_there_is_no_doubt(tmp_path):
    put(tmp_path, "1.png", "2.png")
    lines = ["2,1.png,ill,cat", "1,2.png,well,dog"]  # ids that are the number of another row's file
    assert labels(table(tmp_path / "t.csv", "id,filename,diagnosis,label", *lines)) == {"1.png": "cat", "2.png": "dog"}
    lines = ["x,1.png,a", "y,2.png,b"]  # ids that are no files at all
    assert labels(table(tmp_path / "t.csv", "path,image,label".replace("path", "id"), *lines)) == {
        "1.png": "a",
        "2.png": "b",
    }


def test_if_no_file_is_there_it_says_where_it_looked(tmp_path):
    put(tmp_path, "1.png")
    path = table(tmp_path / "t.csv", "path,label", "images/1.png,cat", "images/2.png,dog")
    assert refusal(path) == (
        f"none of the 2 files that table '{path}' names in 'path' is there, 'images/1.png' for one, looked for in and "
        f"below '{tmp_path}'; put the table into the folder that its paths start from"
    )
    put(tmp_path, "a/9.png", "b/9.png")
    assert refusal(table(path, "path,label", "9.png,cat")).endswith(
        "can be used: 1 × several files fit: 'a/9.png' and 'b/9.png'; write the folder into the table (9.png)"
    )
    assert refusal(table(path, "path,label", "1.png,", "a/9.png,")).endswith(
        "can be used: 2 × no label (t.csv, row 2: 1.png, t.csv, row 3: a/9.png); 1 × not in the table (b/9.png)"
    )


def test_one_class_in_a_table(tmp_path):
    put(tmp_path, "1.png", "2.png")
    path = table(tmp_path / "t.csv", "path,label", "1.png,cat", "2.png,cat")
    assert refusal(path) == (
        f"only one class in table '{path}', 'cat' (2 images); a classifier needs two or more: does its column of "
        "labels hold classes?"
    )


def test_a_folder_may_be_called_like_a_table(tmp_path):
    put(tmp_path, "photos.csv/cat/1.png", "photos.csv/dog/1.png")
    assert not is_table(tmp_path / "photos.csv")
    assert {example.label for example in read(tmp_path / "photos.csv")[0]} == {"cat", "dog"}


@pytest.mark.slow
def test_fifty_thousand_rows_are_sorted_out_in_no_time(tmp_path):
    """No image is opened; quadratic, this would take hours."""
    lines = []
    for number in range(50_000):
        folder = tmp_path / f"part_{number % 10}"
        folder.mkdir(exist_ok=True)
        os.close(os.open(folder / f"ISIC_{number}.jpg", os.O_CREAT))
        lines.append(f"ISIC_{number},{'abc'[number % 3]},P{number // 4}")
    path = table(tmp_path / "t.csv", "image_id,dx,patient_id", *lines)
    began = time.perf_counter()
    assert len(open_table(path, progress=False).rows) == 50_000
    assert time.perf_counter() - began < 30


# The whole of it


def test_a_run_on_a_table_goes_on_with_and_without_it(tiny_resnet, tmp_path, capsys):
    recipe, run = tmp_path / "colours.py", tmp_path / "run"
    recipe.write_text(
        "from training.recipe import Linear, Recipe, Stage\n"
        f"recipe = Recipe(title='Colours', base_model={str(tiny_resnet)!r}, head=(Linear(),), stages=(Stage(name='all',"
        " batch_size=8, arguments={'num_train_epochs': 1, 'learning_rate': 1e-2}),))\n"
    )
    lines = []
    for number in range(30):
        write_photo(tmp_path / "data" / "images" / f"{number}.png", number % 3 / 3, number)
        lines.append(f"{number};{('grün', 'rot', 'blau')[number % 3]};p{number // 3}")
    path = table(tmp_path / "data" / "labels.csv", "id;label;patient", *lines, encoding="cp1252")
    words = [str(recipe), "--use_cpu", "--output_dir", str(run)]
    assert main([*words, "--data_dir", str(path)]) == 0
    told = f"table      {path}: path from 'id', label from 'label', group from 'patient'; read as cp1252, separated by "
    assert told in capsys.readouterr().out
    assert json.loads((run / "local" / "data.json").read_text()) == {
        "data_dir": str((tmp_path / "data" / "images").resolve()),
        "given": [str(path.resolve())],
    }
    made = read_splits(run / "local" / "splits.csv")
    assert Counter(row.label for row in made) == {"grün": 10, "rot": 10, "blau": 10}
    assert sorted(json.loads((run / "config.json").read_text())["label2id"]) == ["blau", "grün", "rot"]
    for again in (["--data_dir", str(path)], []):
        assert main([*words, *again, "--resume"]) == 0
        assert "finished before" in capsys.readouterr().out
    assert read_splits(run / "local" / "splits.csv") == made
