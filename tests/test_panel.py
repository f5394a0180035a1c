"""The gateway's page in a real browser, against a real gateway on a real queue."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from comfyui_sonic.queue_bridge.gateway.serve import Listening, listening
from comfyui_sonic.queue_bridge.intake.pairing import pair_folder
from comfyui_sonic.queue_bridge.job import JobSpec
from comfyui_sonic.queue_bridge.pipelines.templates import SHIPPED, load_templates
from comfyui_sonic.queue_bridge.queue.presence import Identity, registration
from comfyui_sonic.queue_bridge.queue.store import Submission
from comfyui_sonic.queue_bridge.retry import Verdict
from comfyui_sonic.queue_bridge.states import State

from .bridge_fixture import ROOT, Bridge
from .browser_fixture import Page, new_page
from .gateway_fixture import GatewayHands, gateway_hands
from .small_video import small_video

PORTRAIT = ROOT / "tests" / "data" / "golden" / "portrait.png"
VOICE = ROOT / "tests" / "data" / "voice.wav"
GIVEN_UP = Verdict(State.FAILED, "retries used up", dead_letter=True)
ROW = "[...document.querySelectorAll('.row')].find((one) => one.innerText.includes({name}))"


@pytest.fixture
async def hands(redis_url: str, tmp_path: Path) -> AsyncIterator[GatewayHands]:
    async with gateway_hands(redis_url, tmp_path) as hands:
        yield hands


@pytest.fixture
async def page(browser: str) -> AsyncIterator[Page]:
    """A page that complains of nothing: no error of a script, nothing that its policy forbids."""
    async with new_page(browser) as page:
        yield page
        assert page.troubles == []


def row(name: str, more: str = "") -> str:
    """An expression of what ``more`` says of the line with this name, or of whether there is one."""
    found = ROW.format(name=json.dumps(name))
    return f"{found}?{more}" if more else f"!!{found}"


def material(folder: Path, *names: str) -> list[Path]:
    """Real pictures and recordings under these names."""
    folder.mkdir(exist_ok=True)
    for name in names:
        real = {".png": PORTRAIT, ".wav": VOICE}.get(Path(name).suffix)
        if real:
            shutil.copyfile(real, folder / name)
        else:
            (folder / name).write_text("notes", encoding="utf-8")
    return [folder / name for name in names]


async def give_up(hands: GatewayHands, error: str = "The card was taken away.") -> None:
    await hands.store.settle(await hands.claim(), GIVEN_UP, error, "may pass", "gpu-1")


async def test_a_job_is_seen_from_its_submission_to_its_end_without_a_reload(hands: GatewayHands, page: Page) -> None:
    shutil.copyfile(PORTRAIT, hands.root / "a.png")
    await page.open(hands.address)
    await page.sees("There are no jobs yet")
    await page.sees("Live")
    await hands.submit(name="anna", config={"resolution": 512})
    await page.wait(row("anna", ".innerText.includes('Waiting')"))
    job = await hands.claim()
    await hands.store.progress(job, 42.0, "Make frames", 33.0)
    await page.wait(row("anna", ".querySelector('progress').value === 42"))
    shown = await page.js(row("anna", ".innerText"))
    assert all(text in shown for text in ("Running", "Make frames", "42 %", "33 s left")), shown
    await page.wait(row("anna", ".querySelector('img').naturalWidth > 0"))
    await hands.store.complete(job, {"bytes": 3})
    await page.wait(row("anna", ".innerText.includes('Completed')"))
    await page.wait("document.querySelector('.figure.completed dd').textContent === '1'")
    assert not await page.js(row("anna", ".querySelector('progress').checkVisibility()"))


async def test_both_languages_say_everything_and_the_browsers_is_taken(hands: GatewayHands, page: Page) -> None:
    await hands.submit(name="one")
    await give_up(hands)
    await hands.submit(name="two")
    await hands.store.progress(await hands.claim(), 10.0, "Make frames", 5.0)
    await page.prefers(language="zh-CN")
    await page.open(hands.address)
    for text in ("排队中", "处理中", "失败", "生成画面", "死信", "新建视频"):
        await page.sees(text)
    assert await page.js("document.documentElement.lang") == "zh-CN"
    assert await page.js("document.title") == "Sonic 队列"
    await page.button("English")
    await page.sees("Make frames")
    assert await page.js("document.documentElement.lang") == "en"
    assert await page.js("import('/panel/text.js').then((text) => text.unevenTexts())") == []


async def test_dropped_files_become_jobs_and_what_is_left_out_is_said_before(
    hands: GatewayHands, page: Page, tmp_path: Path
) -> None:
    names = ("anna.png", "anna_hello.wav", "anna_bye.wav", "bea.png", "nobody.wav", "odd.xyz")
    await page.open(hands.address)
    await page.sees("There are no jobs yet")
    await page.drop(material(tmp_path / "dropped", *names))
    await page.sees("2 videos will be made", "dialog")
    for text in ("3 files are left out", "bea.png No recording has this name", "nobody.wav No picture", "'.xyz' is no"):
        await page.sees(text, "dialog")
    await page.js("document.querySelector('[name=resolution]').value = '500'")
    await page.button("Submit", "dialog")
    await page.sees("in steps of 64", "dialog")
    await page.js("document.querySelector('[name=resolution]').value = '768'")
    await page.js("document.querySelector('[name=engine]').value = 'draft'")
    await page.js("document.querySelector('[name=priority]').value = 'priority'")
    await page.button("Submit", "dialog")
    await page.sees("2 jobs are in the queue.", "dialog")
    await page.button("Show them", "dialog")
    await page.wait(row("anna_hello"))
    tasks = (await hands.get("/v1/tasks")).json["tasks"]
    assert {one["name"] for one in tasks} == {"anna_hello", "anna_bye"}
    for one in tasks:
        assert (one["priority"], one["config"]) == ("priority", {"resolution": 768, "engine": "draft"})
    (batch,) = {one["batch"] for one in tasks}
    assert await page.js("location.hash") == f"#jobs?batch={batch}"


async def test_a_zip_is_looked_into_before_it_is_sent(hands: GatewayHands, page: Page, tmp_path: Path) -> None:
    archive = tmp_path / "orders.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for file in material(tmp_path / "zipped", "anna.png", "anna.wav", "über.png", "bea.wav"):
            opened.write(file, f"orders/{file.name}")
        opened.writestr("__MACOSX/orders/._anna.png", b"")
        opened.writestr("orders/more/x.png", b"")
    await page.open(hands.address)
    await page.sees("There are no jobs yet")
    await page.drop([archive])
    for text in ("1 video will be made", "orders.zip: 1 videos", "über.png", "more It is a folder", "bea.wav"):
        await page.sees(text, "dialog")
    await page.button("Submit", "dialog")
    await page.sees("1 job is in the queue.", "dialog")
    (one,) = (await hands.get("/v1/tasks")).json["tasks"]
    assert (one["name"], one["image"]) == ("anna", None)


async def test_what_the_gateway_refuses_is_said_and_can_be_sent_again(
    hands: GatewayHands, page: Page, tmp_path: Path
) -> None:
    good, voice = material(tmp_path / "dropped", "anna.png", "anna.wav")
    bad = good.with_name("bea.png")
    bad.write_bytes(b"no picture")
    other = shutil.copyfile(voice, voice.with_name("bea.wav"))
    await page.open(hands.address)
    await page.sees("There are no jobs yet")
    await page.drop([good, voice, bad, other])
    await page.sees("2 videos", "dialog")
    await page.button("Submit", "dialog")
    await page.sees("1 job is in the queue.", "dialog")
    await page.sees("is no picture that is taken here", "dialog")
    await page.button("Send the rest again", "dialog")
    await page.sees("1 could not be sent", "dialog")
    assert len((await hands.get("/v1/tasks")).json["tasks"]) == 1, "what was sent is not sent again"


async def test_what_the_gateway_refuses_is_said_in_chinese_with_its_own_sentence_where_that_says_more(
    hands: GatewayHands, page: Page, tmp_path: Path
) -> None:
    picture, _ = material(tmp_path / "dropped", "anna.png", "anna.wav")
    picture.write_bytes(b"no picture")
    await page.prefers(language="zh-CN")
    await page.open(hands.address)
    await page.sees("还没有任务")
    await page.drop([picture, picture.with_name("anna.wav")])
    await page.button("提交", "dialog")
    await page.sees("请求有误：", "dialog")
    await page.sees("is no picture that is taken here", "dialog")
    assert await page.js("import('/panel/text.js').then((text) => text.problemText('forbidden', 'May not.'))") == (
        "这个密钥没有执行此操作的权限。"
    )
    assert await page.js("import('/panel/text.js').then((text) => text.problemText('new-kind', 'Why.'))") == "Why."


async def test_names_pair_in_the_page_as_they_do_in_the_queue(hands: GatewayHands, page: Page, tmp_path: Path) -> None:
    draw = random.Random(7)
    stems = ("anna", "Anna", "ANNA_2", "anna_hello", "anna-x", "bea", "Béa", "be\u0301a", "Straße", "STRASSE_1", "a.b")
    suffixes = (".png", ".JPG", ".wav", ".mp3", ".txt", ".xyz", "", ".heic", ".mp4")
    odd = (".hidden.png", "x\u3000y.png", "x y.wav", "no", "end.")
    cases = []
    for _ in range(150):
        names = {draw.choice(stems) + draw.choice(suffixes) for _ in range(draw.randint(1, 7))}
        cases.append(sorted(names | ({draw.choice(odd)} if draw.random() < 0.3 else set())))
    expected = []
    for number, names in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        found = pair_folder(folder)
        pairs = sorted([one.name, one.portrait.name, one.voice.name] for one in found.pairs)
        expected.append([pairs, sorted(one.path.name for one in found.left_out)])
    await page.open(hands.address)
    found = await page.wait(
        f"import('/panel/pairing.js').then(({{ pair }}) => {json.dumps(cases)}.map((names) => {{"
        " const { pairs, leftOut } = pair(names);"
        " return [pairs.map((one) => [one.name, one.portrait, one.voice]), leftOut.map((one) => one.name)]; }))"
    )
    for names, here, there in zip(cases, found, expected, strict=True):
        assert [sorted(here[0]), sorted(here[1])] == there, names


async def test_jobs_are_cancelled_started_again_and_dropped_from_the_dead_letter(
    hands: GatewayHands, page: Page
) -> None:
    await hands.submit(name="lost")
    await give_up(hands)
    await hands.submit(name="gone")
    await give_up(hands)
    await hands.submit(name="waits")
    await page.open(hands.address)
    await page.button("Cancel: waits")
    await page.sees("waits is cancelled.")
    await page.wait(row("waits", ".innerText.includes('Cancelled')"))
    await page.click("nav a[href='#dead']")
    await page.sees("The card was taken away.", ".view")
    await page.button("Start again: lost")
    await page.sees("lost starts again.")
    await page.wait(f"!{row('lost')}")
    await page.button("Drop: gone")
    await page.sees("The dead letter is empty")
    tasks = {one["name"]: one["state"] for one in (await hands.get("/v1/tasks")).json["tasks"]}
    assert tasks == {"lost": "queued", "gone": "failed", "waits": "cancelled"}


@pytest.mark.parametrize("view", ["dead", "jobs"])
async def test_a_click_during_which_the_list_changes_does_what_its_button_says(
    hands: GatewayHands, page: Page, view: str
) -> None:
    for name in ("first", "second"):
        await hands.submit(name=name)
        await give_up(hands)
    await page.open(f"{hands.address}/#{view}")
    await page.wait(row("second"))
    button = "[...document.querySelectorAll('button')].find((one) => one.ariaLabel === 'Start again: first')"
    await page.wait(f"{button}?.checkVisibility()")
    await page.js("document.querySelector('nav a').focus()")  # which it loses by the press, as it mostly is
    async with page.pressed(button):
        await hands.submit(name="third")
        await give_up(hands)
        await page.wait("document.querySelector('.badge').textContent === '3'")
        await asyncio.sleep(1.3)  # a list is asked for again after a second
    await page.sees("first starts again.")
    await page.wait(row("third"))


async def test_batches_and_servers_stay_under_the_pointer_while_it_is_down(hands: GatewayHands, page: Page) -> None:
    fields = {"tasks": [hands.task(name=f"job {n}") for n in range(2)]}
    batch = (await hands.post(fields, "/v1/batches")).json["batch_id"]
    await page.open(f"{hands.address}/#batches")
    await page.sees("0 of 2 ended")
    async with page.pressed(f"document.querySelector('[aria-label=\"Cancel the rest: {batch}\"]')"):
        other = (await hands.post({"tasks": [hands.task(name="another")]}, "/v1/batches")).json["batch_id"]
        await asyncio.sleep(1.3)  # the list is asked for again after a second, and the newest comes first
    await page.sees("Cancel 2 jobs of the batch", "dialog")
    await page.button("Keep it", "dialog")
    await page.wait(f"document.querySelector('.rows').firstChild.dataset.batch === '{other}'")

    await hands.store._call("register", *registration(Identity("gpu-2", "boot"), 600.0, {}))
    await page.open(f"{hands.address}/#instances")
    async with page.pressed("document.querySelector('[aria-label=\"Drain gpu-2\"]')"):
        await hands.store._call("register", *registration(Identity("gpu-1", "boot"), 600.0, {}))
        await asyncio.sleep(1.3)  # servers are looked at every second
    await page.sees("Draining", "[data-instance=gpu-2]")
    await page.wait("document.querySelector('.cards').firstChild.dataset.instance === 'gpu-1'")


async def test_a_batch_is_counted_and_cancelled_after_a_question(hands: GatewayHands, page: Page) -> None:
    fields = {"tasks": [hands.task(name=f"job {n}") for n in range(3)]}
    batch = (await hands.post(fields, "/v1/batches")).json["batch_id"]
    await hands.complete()
    await page.open(f"{hands.address}/#batches")
    await page.sees("1 of 3 ended")
    await page.button(f"Cancel the rest: {batch}")
    await page.sees("Cancel 2 jobs of the batch", "dialog")
    await page.button("Keep it", "dialog")
    assert (await hands.get(f"/v1/batches/{batch}")).json["unended"] == 2
    await page.button(f"Cancel the rest: {batch}")
    await page.button("Cancel the rest", "dialog")
    await page.sees("3 of 3 ended")
    await page.button(f"Show jobs: {batch}")
    await page.wait("document.querySelectorAll('.row').length === 3")


async def test_servers_show_their_cards_and_are_drained(hands: GatewayHands, page: Page) -> None:
    card = {"device": "NVIDIA L4", "memory_total": 24_000_000_000, "memory_free": 6_000_000_000, "tiers": [512, 768]}
    said = {**card, "engines": ["draft", "sonic"]}
    sick = {**said, "unhealthy": "The card fell off the bus."}
    for name, described in (("gpu-1", said), ("gpu-2", sick)):
        await hands.store._call("register", *registration(Identity(name, "boot"), 600.0, described))
    await hands.submit(name="anna")
    await hands.store.progress(await hands.claim(), 55.0, "Make frames", None)
    await page.open(f"{hands.address}/#instances")
    first = "[data-instance=gpu-1]"
    for text in ("NVIDIA L4", "6 GB of 24 GB free", "512, 768", "draft, sonic", "Busy", "anna", "Make frames"):
        await page.sees(text, first)
    await page.sees("The card fell off the bus.", "[data-instance=gpu-2]")
    await page.button("Drain gpu-1")
    await page.sees("Draining", first)
    await page.button("Let gpu-1 take jobs again")
    await page.sees("Busy", first)


async def test_a_cards_load_and_memory_in_use_are_shown_where_they_are_known(hands: GatewayHands, page: Page) -> None:
    card = {"device": "NVIDIA L4", "memory_total": 24_000_000_000, "memory_free": 6_000_000_000}
    figures = {"gpu_used": 0.73, "gpu_memory_used": 19_000_000_000}

    async def beats(name: str, **figures: float) -> None:
        await hands.store._call("register", *registration(Identity(name, "boot"), 600.0, card | figures))

    async def shows(name: str, *expected: str) -> None:
        """Name and value of each fact about the card's load and memory that can be seen, as they are read aloud."""
        facts = f"[...document.querySelectorAll('[data-instance={name}] :is(dt, dd)')]"
        seen = f"{facts}.filter((one) => one.checkVisibility()).map((one) => one.innerText).slice(8)"
        await page.wait(f"{seen}.join(' | ') === {json.dumps(' | '.join(expected))}")

    await beats("knows", **figures)
    await beats("knows-not")
    await page.open(f"{hands.address}/#instances")
    room, both = "6 GB of 24 GB free", "6 GB of 24 GB free · 19 GB in use by all programs"
    await shows("knows", "Card's load", "73 %", "Memory", both)
    await shows("knows-not", "Memory", room)
    await beats("knows", gpu_used=0.0, gpu_memory_used=figures["gpu_memory_used"])
    await shows("knows", "Card's load", "0 %", "Memory", both)
    await beats("knows", gpu_memory_used=figures["gpu_memory_used"])  # all that is known of a part of a divided card
    await shows("knows", "Memory", both)
    await beats("knows")
    await beats("knows-not", **figures)
    await shows("knows", "Memory", room)
    await page.button("中文")
    await shows("knows-not", "显卡负载", "73 %", "显存", "24 GB 中可用 6 GB · 所有程序共占用 19 GB")
    await shows("knows", "显存", "24 GB 中可用 6 GB")


async def test_a_finished_video_plays_with_its_report(hands: GatewayHands, page: Page) -> None:
    await hands.submit(name="anna")
    job = await hands.claim()
    place = Path(job.spec.output.removeprefix("file://"))
    place.parent.mkdir(parents=True)
    place.write_bytes(video := small_video(2.0))
    quality = {"frames": 50, "sync_offset_ms": 12.5, "open_in_silence": 0.25, "falls_short": ["The mouth is open."]}
    report = {"engine": "draft", "fps": 25}
    warned = {"warnings": ["Loud."], "quality": quality, "report": report, "seconds": 4.2}
    await hands.store.complete(job, {"bytes": len(video), "attempt": 1, **warned})
    key = ""
    for needs_key in (False, True):
        if needs_key:
            key = await hands.key("admin")
            await page.js(f"sessionStorage.setItem('sonic-queue-key', '{key}')")
        await page.open("about:blank")
        await page.open(hands.address)
        await page.button("Play: anna")
        await page.wait("document.querySelector('video')?.readyState >= 2")
        assert await page.js("document.querySelector('video').duration") == pytest.approx(2.0, abs=0.1)
        seek = "new Promise((done) => { const video = document.querySelector('video'); video.onseeked = () =>"
        assert await page.js(f"{seek} done(video.currentTime); video.currentTime = 1.5; }})") == pytest.approx(
            1.5, abs=0.1
        )
        for text in ("Loud.", "The mouth is open.", "12.5 ms", "25 %", "draft", "Save the video"):
            await page.sees(text, "dialog")
        ranges = [one for one in page.requests if one.endswith("/result")]
        assert len(ranges) > needs_key
    assert not [one for one in page.requests if key in one], "the key is in no address"
    place.unlink()
    await page.open("about:blank")
    await page.open(hands.address)
    await page.button("Play: anna")
    await page.sees("The file was removed", "dialog")


async def test_a_key_is_asked_for_and_stays_in_the_tab(hands: GatewayHands, page: Page) -> None:
    key, other = await hands.key("submit", "read"), await hands.key("admin")
    await hands.submit(key, name="mine")
    await hands.submit(other, name="theirs")
    await page.open(hands.address)
    await page.sees("An API key is needed")
    assert not await page.js("!!document.querySelector('.overview')?.checkVisibility()")
    await page.wait("document.activeElement.name === 'key'")
    await page.type("sq_nonsense")
    await page.press("Enter", 13)
    await page.sees("This is no key.")
    wrong = key[:-43] + "A" * 43
    for text, then in ((wrong, "does not know this key"), (key, "Live")):
        await page.js("document.querySelector('[name=key]').value = ''")
        await page.click("[name=key]")
        await page.type(text)
        await page.press("Enter", 13)
        await page.sees(then)
    await page.wait(row("mine"))
    assert not await page.js(f"!!{row('theirs')}")
    assert await page.js("localStorage.length + document.cookie.length") == 0
    assert not [one for one in page.requests if "sq_" in one]
    await page.click("nav a[href='#instances']")
    await page.sees("gpu-1", ".view")
    assert not await page.js("!!document.querySelector('[aria-label=\"Drain gpu-1\"]').checkVisibility()")
    await page.button("Forget key")
    await page.sees("An API key is needed")


async def test_a_name_that_is_markup_is_shown_as_text(hands: GatewayHands, page: Page) -> None:
    name = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    await hands.submit(name=name, config={"mark_text": name})
    await give_up(hands, f"Failed: {name}")
    await page.open(hands.address)
    await page.wait(row(name))
    await page.button(name, ".rows")
    await page.sees(f"Failed: {name}", "dialog")
    await page.sees("mark_text", "dialog")
    assert await page.js("document.title") == "Sonic queue"
    assert await page.js("document.querySelectorAll('script').length") == 1
    with pytest.raises(AssertionError, match="TrustedHTML"):
        await page.js("(() => { document.body.innerHTML = '<b>x</b>'; })()")
    page.troubles.clear()  # the policy has just said so


async def test_a_lost_gateway_is_said_and_found_again(hands: GatewayHands, page: Page) -> None:
    templates = load_templates((SHIPPED,))
    shown = contextlib.AsyncExitStack()
    address = await shown.enter_async_context(
        listening(hands.settings, hands.store, hands.view, templates, Listening(port=0))
    )
    await hands.submit(name="before")
    await page.open(address)
    await page.wait(row("before"))
    await shown.aclose()
    await page.sees("Not connected to the gateway")
    task_id = await hands.submit(name="meanwhile")
    port = int(address.rpartition(":")[2])
    async with listening(hands.settings, hands.store, hands.view, templates, Listening(port=port)):
        await page.wait(row("meanwhile"))
        await page.wait("!document.querySelector('.trouble').checkVisibility()")
        await hands.store.cancel([task_id])
        await page.wait(row("meanwhile", ".innerText.includes('Cancelled')"))
        await page.open("about:blank")
    page.troubles = [one for one in page.troubles if "ERR_CONNECTION_REFUSED" not in one]


@pytest.mark.slow
async def test_ten_thousand_jobs_are_a_page_like_any_other(hands: GatewayHands, page: Page) -> None:
    uri = (hands.root / "a.png").as_uri()

    def one(number: int) -> Submission:
        place = (hands.root / f"{number}.mp4").as_uri()
        return Submission(JobSpec(f"job-{number:05}", uri, uri, place, name=f"person {number}"), 512)

    await hands.store.submit([one(number) for number in range(10_000)])
    await page.open(hands.address)
    began = time.monotonic()
    await page.wait("document.querySelectorAll('.row').length === 50")
    assert time.monotonic() - began < 3
    await page.sees("10,000")
    await page.sees("person 9999")
    await page.button("Older")
    await page.sees("person 9949")
    await page.button("Newer")
    await page.click("input[type=search]")
    await page.type("person 8042")
    await page.wait("document.querySelectorAll('.row').length === 1")
    await page.sees("person 8042", ".rows")
    await page.open("about:blank")
    await page.open(hands.address)
    await page.wait("document.querySelectorAll('.row').length === 50")
    # many changes at once: the page answers meanwhile
    jobs = [await hands.claim() for _ in range(40)]
    for job in jobs:
        await hands.store.progress(job, 50.0, "Make frames", 1.0)
    longest = "new Promise((done) => { let [last, worst] = [performance.now(), 0]; const until = last + 600;"
    longest += "const step = (now) => { worst = Math.max(worst, now - last); last = now;"
    longest += "now < until ? requestAnimationFrame(step) : done(worst); }; requestAnimationFrame(step); })"
    assert await page.js(longest) < 500
    assert await page.js("document.querySelectorAll('.row').length") == 50


CONTRAST = """(() => {
  const linear = (v) => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const rgb = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(') ? numbers.map((value, at) => (at < 3 ? value * 255 : value)) : numbers;
  };
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const [r, g, b, a = 1] = rgb(getComputedStyle(one).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const one of document.querySelectorAll('body *')) {
    if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (!one.checkVisibility() || one.closest('.unseen, .skip, :disabled')) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color).slice(0, 3)), light(ground(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([one.textContent.slice(0, 30), one.className, ratio.toFixed(2)]);
  }
  return poor;
})()"""
NAMED = {
    *("button", "link", "textbox", "searchbox", "combobox", "spinbutton", "progressbar", "meter"),
    *("image", "img", "dialog", "navigation"),
}


async def check_access(page: Page, what: str) -> None:
    """What a person needs who cannot see, has no mouse, or sees little."""
    spoken = await page.spoken()
    nameless = [one for one in spoken if one["role"] in NAMED and not one["name"].strip()]
    assert nameless == [], f"{what}: without a name"
    ids = await page.js("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids)), f"{what}: an id is there twice"
    for name in ("aria-labelledby", "aria-describedby", "for"):
        named = f"[...document.querySelectorAll('[{name}]')].flatMap((one) => one.getAttribute('{name}').split(' '))"
        lost = await page.js(f"{named}.filter((id) => !document.getElementById(id))")
        assert lost == [], f"{what}: what it is called by is not there"
    assert await page.js(CONTRAST) == [], f"{what}: contrast"
    assert await page.js("document.documentElement.scrollWidth <= innerWidth"), f"{what}: wider than the window"


@pytest.mark.slow
async def test_every_view_can_be_used_by_everybody(hands: GatewayHands, page: Page) -> None:
    shutil.copyfile(PORTRAIT, hands.root / "a.png")
    described = {"device": "NVIDIA RTX 4090", "memory_total": 24_000_000_000, "memory_free": 9e9, "tiers": [512, 768]}
    described |= {"gpu_used": 1.0, "gpu_memory_used": 23_500_000_000}
    await hands.store._call("register", *registration(Identity("gpu-1", "boot"), 600.0, described))
    long_name = "a_very_long_name_without_any_blank_that_could_be_broken_" * 3
    await hands.submit(name=long_name)
    await give_up(hands)
    await hands.submit(name="done")
    await hands.complete(small_video())
    await hands.submit(name="runs", config={"resolution": 512})
    await hands.store.progress(await hands.claim(), 30.0, "Make frames", 90.0)
    await hands.post({"tasks": [hands.task(name="in a batch", priority="priority")] * 3}, "/v1/batches")
    await page.open(hands.address)
    await page.wait(row("runs"))
    spoken = await page.spoken()
    roles = [one["role"] for one in spoken]
    assert (roles.count("main"), roles.count("banner"), roles.count("heading")) == (1, 1, 3)
    assert {"navigation", "search", "list", "status"} <= set(roles)
    for language, dark, width in (("en-US", False, 1280), ("zh-CN", True, 360)):
        await page.prefers(language=language, dark=dark)
        await page.size(width, 800)
        await page.open("about:blank")
        await page.open(hands.address)
        await page.wait(row("runs"))
        for view in ("jobs", "instances", "batches", "dead"):
            await page.js(f"location.hash = '{view}'")
            await page.wait(f"!!document.querySelector('nav a[href=\"#{view}\"][aria-current=page]')")
            await page.wait("document.querySelectorAll('.view .row, .view .card').length > 0")
            await check_access(page, f"{view} {language} {width}")
        await page.button("New videos" if language == "en-US" else "新建视频")
        await page.wait("!!document.querySelector('dialog [name=resolution]')")
        await check_access(page, f"submit {language} {width}")
        await page.press("Escape", 27)
        await page.wait("!document.querySelector('dialog')")
        assert await page.js("document.activeElement.textContent") in ("New videos", "新建视频"), "the focus comes back"


async def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(hands: GatewayHands, page: Page) -> None:
    await hands.submit(name="anna")
    await page.open(hands.address)
    await page.wait(row("anna"))
    reached = []
    where = "(({ tagName, textContent, name }) => tagName === 'BODY' ? '' : textContent || name || tagName)"
    where = f"[{where}(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
    for _ in range(20):
        await page.press("Tab", 9)
        name, outline = await page.js(where)
        reached.append(name)
        assert outline != "none" or not name, name
    for wanted in ("Skip to the content", "Jobs", "Servers", "New videos", "anna", "Cancel"):
        assert wanted in reached
    await page.js(row("anna", ".querySelector('.name').focus()"))
    await page.press("Enter", 13)
    await page.sees("What was asked for", "dialog")
    await page.press("Escape", 27)
    await page.wait("!document.querySelector('dialog')")
    assert await page.js("document.activeElement.textContent") == "anna"


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_files_that_are_dropped_become_a_video_that_plays(bridge: Bridge, page: Page, tmp_path: Path) -> None:
    settings = {"queue": bridge.settings.queue, "gateway_folder": str(bridge.orders / "gateway"), "lease_s": 6.0}
    files = material(tmp_path / "dropped", "anna.wav")
    files.append(Path(shutil.copyfile(ROOT / "examples" / "batch" / "close_up.png", tmp_path / "dropped" / "anna.png")))
    async with gateway_hands(bridge.settings.url, bridge.orders, instance="", heartbeat_s=1.0, **settings) as hands:
        await page.open(hands.address)
        await page.sees("Live")
        button = "[...document.querySelectorAll('button')].find(one => one.textContent === 'New videos')"
        await page.wait(f"{button}?.checkVisibility()")
        await page.drop(files)
        await page.sees("1 video will be made", "dialog")
        await page.wait("!!document.querySelector('dialog [name=resolution]')")
        for name, value in (("resolution", 256), ("engine", "draft"), ("duration", 0.5)):
            await page.js(f"document.querySelector('dialog [name={name}]').value = '{value}'")
        await page.button("Submit", "dialog")
        await page.button("Show them", "dialog")
        await page.wait(row("anna", ".querySelector('progress')?.value > 0"), 60)
        await page.button("Play: anna")
        await page.wait("document.querySelector('video')?.readyState >= 2")
        assert await page.js("document.querySelector('video').duration") == pytest.approx(0.5, abs=0.1)
        await page.sees("draft", "dialog")
        await page.open("about:blank")
