"""What is left of a stranger's model card: words, headings, lists, tables and links, and nothing that is fetched."""

import re

import pytest

from hub_utils.portable.card_html import MOST, card_html

HOST = "https://x.example"
FETCHING = (
    f"![x]({HOST}/1)",
    f"![a[b]c]({HOST}/1)",
    f"![esc\\]x]({HOST}/1)",
    f"![ref][r]\n\n[r]: {HOST}/1",
    f'<im<img x>g src="{HOST}/1">',
    f"<picture><source srcset={HOST}/1></picture>",
    f"<video src={HOST}/1 autoplay poster={HOST}/2></video>",
    f"<audio src={HOST}/1 autoplay></audio>",
    f"<input type=image src={HOST}/1>",
    f"<table background={HOST}/1><tr><td>x</td></tr></table>",
    f'<div style="background:url({HOST}/1)">y</div>',
    f'<p style="background:url({HOST}/1)">y</p>',
    f"<svg><image href={HOST}/1 /></svg>",
    f"<math><mtext><style><img src={HOST}/1></style></mtext></math>",
    f'<style>@import "{HOST}/1";</style>',
    f"<script src={HOST}/1>alert(1)</script>",
    f"<iframe src={HOST}/1></iframe>",
    f"<form action={HOST}/1><button>Log in</button></form>",
    f'<div style="position:fixed;inset:0;background:url({HOST}/1)">over all</div>',
    f"<link rel=stylesheet href={HOST}/1><meta http-equiv=refresh content='0;{HOST}/1'><base href={HOST}/1>",
    f"<!-- <img src={HOST}/1> --><![CDATA[<img src={HOST}/1>]]><?x <img src={HOST}/1> ?>",
    f"<a href=javascript:alert(1) onclick=alert(1) ping={HOST}/1>z</a> [js](javascript:alert(1)) [d](data:text/html,1)",
)


@pytest.mark.parametrize("markdown", FETCHING)
def test_nothing_is_fetched_run_or_laid_over_the_page(markdown):
    found = card_html(f"before\n\n{markdown}\n\nafter")
    tags = re.findall(r"<[^>]*>", found)
    assert not [tag for tag in tags if "=" in tag], found  # no attribute is left, and so no address
    assert not re.search(r"<(img|svg|script|style|form|input|button|div|video|iframe|link)", found)
    assert found.startswith("<p>before</p>")


def test_headings_lists_tables_links_and_what_stands_for_pictures_are_left():
    text = f"# A card\n\n![a plot](a.png) [page]({HOST}/?a=1&b=2) <{HOST}> [here](#there)\n\n1. one\n\n"
    text += "| a | b |\n|---|---:|\n| *x* | `1 < 2` |\n\n<details>\n<summary>More</summary>\n\n- two\n\n</details>\n"
    found = card_html(text)
    for part in (
        "<h1>A card</h1>", "<em>a plot</em>", "<li>one</li>", "<em>x</em>", "<code>1 &lt; 2</code>",
        '<td style="text-align:right">', "<summary>More</summary>", "<li>two</li>", "</details>",
        f'<a href="{HOST}/?a=1&amp;b=2" target="_blank" rel="noopener nofollow">page</a>', " here</p>",
    ):  # fmt: skip
        assert part in found, (part, found)


def test_every_tag_is_closed_and_none_that_was_not_opened():
    assert card_html("</section></div></p> <b>bold <i>both") == " <b>bold <i>both</i></b>"
    deep = card_html("<blockquote>" * 3000 + "x")
    assert deep.count("<blockquote>") == deep.count("</blockquote>") <= 30


def test_no_card_and_one_that_is_none():
    assert card_html("") == ""
    assert f"{MOST:,} are shown at most" in card_html("x" * (MOST + 1))
