"""The working folder of a snippet: files of the job at the start, what is new or changed at the end, nothing else."""

import pytest

from sandboxes.model import MAX_FILES, MIB, Exit, Job, Limits
from sandboxes.pool import WasmPython

GIVEN = {"table.csv": "a,b\n1,é\n".encode(), "raw.bin": bytes(range(256))}
ROOM = Limits(files_out=1000)
NOW = 1_700_000_000.0

# Each prints what plain Python would print in a folder that holds GIVEN.
READS = {
    "open": ("print(open('table.csv').read())", "a,b\n1,é\n\n"),
    "bytes": ("print(open('raw.bin', 'rb').read() == bytes(range(256)))", "True\n"),
    "unbuffered": (
        "f = open('raw.bin', 'rb', buffering=0); f.seek(-2, 2); print(f.read(), f.tell())",
        "b'\\xfe\\xff' 256\n",
    ),
    "lines": ("for line in open('table.csv'): print(repr(line))", "'a,b\\n'\n'1,é\\n'\n"),
    "the same file by other names": (
        "print(len({open(n).read() for n in ('table.csv', './table.csv', '/job/table.csv', b'table.csv')}))",
        "1\n",
    ),
    "csv": ("import csv; print(list(csv.DictReader(open('table.csv', newline=''))))", "[{'a': '1', 'b': 'é'}]\n"),
    "pathlib": (
        "from pathlib import Path\np = Path('raw.bin'); print(p.exists(), p.is_file(), p.stat().st_size, p.resolve())\n"
        "print(sorted(map(str, Path('.').iterdir())), [*Path().glob('*.csv')], Path.cwd(), Path('no').exists())",
        "True True 256 /job/raw.bin\n['raw.bin', 'table.csv'] [PosixPath('table.csv')] /job False\n",
    ),
    "os": (
        "import os\nprint(os.listdir('.'), os.listdir(), os.getcwd(), os.path.getsize('raw.bin'), os.path.isdir('.'))\n"
        "print(os.path.isfile('raw.bin'), os.path.isfile('.'), [e.name for e in os.scandir()], list(os.walk('.')))",
        "['raw.bin', 'table.csv'] ['raw.bin', 'table.csv'] /job 256 True\n"
        "True False ['raw.bin', 'table.csv'] [('.', [], ['raw.bin', 'table.csv'])]\n",
    ),
    "the time is the job's": (
        "import os; print(os.stat('raw.bin').st_mtime, os.stat('raw.bin').st_mtime_ns)",
        "5.0 5000000000\n",
    ),
    "outside nothing is": (
        "import os; print([os.path.exists(p) for p in ('/etc/passwd', '..', '/', '../job/raw.bin', '', 'a/raw.bin')])",
        "[False, False, False, False, False, False]\n",
    ),
}
WRITES = {
    "text": ("open('new.txt', 'w').write('é')", {"new.txt": "é".encode()}),
    "an encoding": ("open('n', 'w', encoding='utf-16-le', newline='\\r\\n').write('a\\n')", {"n": b"a\0\r\0\n\0"}),
    "append": ("with open('table.csv', 'a') as f: f.write('2,3\\n')", {"table.csv": "a,b\n1,é\n2,3\n".encode()}),
    "in place": (
        "with open('raw.bin', 'r+b') as f: f.seek(1); f.write(b'AB'); f.truncate()",
        {"raw.bin": b"\0AB"},
    ),
    "over a hole": ("f = open('n', 'wb'); f.seek(3); f.write(b'x'); f.close()", {"n": b"\0\0\0x"}),
    "read, then write": (
        "with open('table.csv', 'r+') as f: t = f.read(); f.seek(0); f.write(t.upper()); f.truncate()",
        {"table.csv": "A,B\n1,É\n".encode()},
    ),
    "emptied": ("open('table.csv', 'w')", {"table.csv": b""}),
    "pathlib": (
        "from pathlib import Path\nPath('a').write_text('é'); Path('b').write_bytes(b'1')\n"
        "Path('c').touch(); Path('b').unlink()",
        {"a": "é".encode(), "c": b""},
    ),
    "renamed": ("import os; os.rename('raw.bin', 'moved.bin')", {"moved.bin": bytes(range(256))}),
    "copied": ("import shutil; shutil.copy2('table.csv', 'c.csv')", {"c.csv": GIVEN["table.csv"]}),
    "removed": ("import os; os.remove('raw.bin'); open('gone', 'w').close(); os.unlink('gone')", {}),
    "only read": ("open('raw.bin', 'rb').read(); open('table.csv', 'r+').read()", {}),
    "left open": ("f = open('n', 'w'); f.write('kept')", {"n": b"kept"}),
    "left open in a circle": ("c = [open('n', 'w')]; c.append(c); c[0].write('kept')", {"n": b"kept"}),
    "before an error": (
        "open('n', 'w').write('kept')\nf = open('o', 'w'); f.write('too')\n1 / 0",
        {"n": b"kept", "o": b"too"},
    ),
    "before an exit": ("import sys\nopen('n', 'w').write('kept'); sys.exit(3)", {"n": b"kept"}),
}
# Through an archive or a format and back, printing what came back.
FORMATS = {
    "gzip": "import gzip\ngzip.open('x', 'wt').write('hi')\nprint(gzip.open('x', 'rt').read())",
    "zip": "import zipfile\nwith zipfile.ZipFile('x', 'w') as z: z.writestr('f', 'hi')\n"
    "print(zipfile.ZipFile('x').read('f').decode())",
    "tar": "import tarfile\nopen('f', 'w').write('hi')\nwith tarfile.open('x', 'w:gz') as t: t.add('f')\n"
    "print(tarfile.open('x').extractfile('f').read().decode())",
    "json": "import json\nwith open('x', 'w') as f: json.dump('hi', f)\nprint(json.load(open('x')))",
    "pickle": "import pickle\nwith open('x', 'wb') as f: pickle.dump('hi', f)\nprint(pickle.load(open('x', 'rb')))",
    "configparser": "import configparser as c\np = c.ConfigParser(); p['a'] = {'b': 'hi'}\n"
    "with open('x', 'w') as f: p.write(f)\n"
    "q = c.ConfigParser(); q.read('x'); print(q['a']['b'])",
    "xml": "import xml.etree.ElementTree as E\ne = E.Element('a'); e.text = 'hi'; E.ElementTree(e).write('x')\n"
    "print(E.parse('x').getroot().text)",
    "logging": "import logging\nlogging.basicConfig(filename='x', format='%(message)s'); logging.error('hi')\n"
    "print(open('x').read(), end='')",
}
REFUSED = {
    "nothing of that name": (
        "open('tabel.csv')",
        ["FileNotFoundError", "'tabel.csv'", "In the working folder: raw.bin, table.csv."],
    ),
    "outside": ("open('/etc/passwd')", ["FileNotFoundError", "'/etc/passwd'", "Only the working folder is here"]),
    "outside, to write": (
        "open('/tmp/x', 'w')",
        ["PermissionError", "only plain files in the working folder", "'/tmp/x'"],
    ),
    "up": ("open('../x', 'w')", ["PermissionError", "only plain files"]),
    "up and down": ("open('../job/raw.bin')", ["FileNotFoundError"]),
    "a folder in between": ("open('a/b', 'w')", ["PermissionError", "only plain files"]),
    "hidden": ("open('.x', 'w')", ["PermissionError", "only plain files"]),
    "a space": ("open('a b', 'w')", ["PermissionError", "only plain files"]),
    "another script": ("open('é', 'w')", ["PermissionError", "only plain files"]),
    "a null": ("open('a\\0b', 'w')", ["PermissionError", "only plain files"]),
    "nothing": ("open('', 'w')", ["PermissionError", "only plain files"]),
    "too long": ("open('x' * 101, 'w')", ["PermissionError", "1 to 100 of"]),
    "renamed to outside": ("import os; os.rename('raw.bin', '/x')", ["PermissionError", "only plain files"]),
    "the folder": ("open('.')", ["IsADirectoryError"]),
    "the folder, to write": ("open('/job/', 'w')", ["IsADirectoryError"]),
    "a descriptor": ("open(1, 'w')", ["PermissionError", "no file descriptors"]),
    "by os.open": ("import os; os.open('raw.bin', 0)", ["PermissionError: os.open is not available in this sandbox"]),
    "a new folder": ("import os; os.makedirs('out')", ["PermissionError", "the working folder is flat", "'out'"]),
    "made twice": ("open('raw.bin', 'x')", ["FileExistsError", "'raw.bin'"]),
    "a link": ("import os; os.symlink('raw.bin', 'l')", ["PermissionError: os.symlink is not available"]),
    "a mode that is none": ("open('raw.bin', 'rw')", ["ValueError: invalid mode: 'rw'"]),
    "read of a file to be written": ("open('n', 'w').read()", ["UnsupportedOperation: not readable"]),
    "written after its end": (
        "f = open('n', 'w'); f.close(); f.write('x')",
        ["ValueError: I/O operation on closed file"],
    ),
    "beyond any memory": (
        "f = open('n', 'wb', buffering=0); f.seek(10**15); f.write(b'x')",
        ["OSError", "File too large"],
    ),
}


def run(play, job: Job) -> Exit:
    seen: list[Exit] = []

    async def scenario(pool: WasmPython) -> None:
        seen.append(await pool.run(job))

    play(scenario, spares=0)
    return seen[0]


@pytest.mark.parametrize("name", READS)
def test_what_the_job_brought_is_there(play, name):
    """Files of the job are read as in any Python, and unchanged they do not come back."""
    program, stdout = READS[name]
    done = run(play, Job(program, files=GIVEN, limits=ROOM, now=5.0))
    assert (done.status, done.stdout, done.files) == ("ok", stdout, {}), done.stderr


@pytest.mark.parametrize("name", WRITES)
def test_what_is_new_or_changed_comes_back(play, name):
    """Exactly the files that were made or changed come back, with every byte, however the snippet ended."""
    program, files = WRITES[name]
    assert run(play, Job(program, files=GIVEN, limits=ROOM)).files == files


@pytest.mark.parametrize("name", FORMATS)
def test_the_standard_library_works_on_these_files(play, name):
    """What a module of the standard library writes to the folder it reads back."""
    done = run(play, Job(FORMATS[name], limits=Limits(files_out=MIB), now=NOW))
    assert (done.status, done.stdout) == ("ok", "hi\n"), done.stderr
    assert "x" in done.files


def test_an_archive_left_open_is_completed(play):
    """A ZIP file that the snippet never closed is whole when it comes back, as at the end of any program."""
    first = run(play, Job("import zipfile\nz = zipfile.ZipFile('x', 'w'); z.writestr('f', 'hi')", limits=ROOM, now=NOW))
    read = "import zipfile; print(zipfile.ZipFile('x').read('f'))"
    assert run(play, Job(read, files=first.files)).stdout == "b'hi'\n"


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_name_or_way_is_refused_with_a_reason(play, name):
    """A name outside the flat folder, or a way round it, is an error that says why, and nothing comes back for it."""
    program, parts = REFUSED[name]
    done = run(play, Job(program, files=GIVEN, limits=ROOM))
    assert done.status == "error"
    assert [part for part in parts if part not in done.stderr] == [], done.stderr
    assert {name for name in done.files if name != "n"} == set()


def test_without_files_out_the_folder_still_works_and_nothing_comes_back(play):
    """A job that may give no files back can still write and read them."""
    done = run(play, Job("open('n', 'w').write('hi'); print(open('n').read())"))
    assert (done.status, done.stdout, done.files) == ("ok", "hi\n", {})


@pytest.mark.parametrize(("size", "status"), [(1000, "ok"), (1001, "limit")])
def test_the_bytes_given_back_are_limited_to_the_byte(play, size, status):
    """Files of exactly `files_out` bytes come back; one byte more is the limit "files_out", and says how many."""
    done = run(play, Job(f"open('a', 'wb').write(bytes({size} - 1)); open('b', 'w').write('x')", limits=ROOM))
    assert (done.status, len(done.files)) == (status, 2 if status == "ok" else 0)
    if status == "limit":
        assert done.limit == "files_out"
        assert done.stderr == "2 files of 1001 bytes were left; at most 32 of 1000 bytes may be\n"


@pytest.mark.parametrize(("count", "status"), [(MAX_FILES, "ok"), (MAX_FILES + 1, "limit")])
def test_the_number_of_files_given_back_is_limited(play, count, status):
    """Thirty-two files come back; one more is the limit "files_out"."""
    done = run(play, Job(f"for n in range({count}): open(f'f{{n}}', 'w').write('x')", limits=ROOM))
    assert (done.status, done.limit) == (status, None if status == "ok" else "files_out")
    assert len(done.files) == (count if status == "ok" else 0)


def test_the_largest_files_go_in_and_come_back(play):
    """Sixteen MiB, the most that may come back, go in and out unaltered."""
    whole = bytes(range(256)) * (16 * MIB // 256)
    limits = Limits(files_out=16 * MIB, memory=256 * MIB, wall=60.0)
    done = run(play, Job("import os; os.rename('in', 'out')", files={"in": whole}, limits=limits))
    assert done.files == {"out": whole}, done.stderr


@pytest.mark.parametrize(
    "program",
    [
        "with open('n', 'wb') as f:\n for _ in range(200): f.write(bytes(1 << 20))",
        "f = open('n', 'wb'); f.truncate(1 << 30)",
        "f = open('n', 'wb', buffering=0); f.seek(1 << 30); f.write(b'x')",
        "for n in range(10_000): open(f'f{n}', 'wb').write(bytes(100_000))",
    ],
)
def test_files_are_bounded_by_the_memory(play, program):
    """Files that outgrow the VM's memory end the job at its memory limit, and none comes back."""
    done = run(play, Job(program, limits=Limits(memory=64 * MIB, files_out=MIB)))
    assert (done.status, done.limit, done.files) == ("limit", "memory", {}), done


FORGED = {
    "json": "import json\njson.dumps = lambda *a, **k: '{}'",
    "base64": "import base64, binascii\nbinascii.b2a_base64 = base64.b64encode = lambda *a, **k: b'\\xff'",
    "the folder": "from folder import FOLDER\nFOLDER.left = lambda: {'../../x': b'x', 'a\"b': b'y'}",
    "the folder raises": "from folder import FOLDER\nFOLDER.left = lambda: 1 / 0",
    "map": "import builtins\nbuiltins.map = builtins.sum = builtins.len = builtins.sorted = None",
    "names": "from folder import FOLDER, Node\nFOLDER.nodes['../x'] = Node(b'x', True, 0)",
    "a lie": "from folder import FOLDER\nclass B(bytes):\n def __len__(s): return 0\n"
    "FOLDER.left = lambda: {'n': B(5000)}",
    "no end": "class F:\n def __del__(s):\n  while True: pass\nf = F()",
}


@pytest.mark.parametrize("name", FORGED)
def test_a_snippet_that_breaks_its_own_answer_harms_nobody_else(play, name):
    """Whatever the snippet does to the code that makes its answer, no bad file comes out, and the next job is plain."""

    async def scenario(pool: WasmPython) -> None:
        limits = Limits(wall=2.0, files_out=1000)
        done = await pool.run(Job(FORGED[name] + "\nopen('n', 'w').write('x')", limits=limits))
        assert done.status in ("error", "timeout")
        assert done.files == {}
        assert (await pool.run(Job("open('n', 'w').write('x')", limits=limits))).files == {"n": b"x"}

    play(scenario)


SAME = """
import os, time, asyncio, uuid
names = set("the order of a set of str is frozen".split())
open("n", "w").write(" ".join(names) + str(uuid.uuid4()) + str(time.time()) + str(hash("x")))
async def nap(n):
    await asyncio.sleep(n)
    return time.time()
result = [list(names), os.stat("n").st_mtime_ns, asyncio.run(nap(2)), os.listdir()]
"""


def test_the_same_job_gives_the_same_files(play):
    """Two runs with one seed, clock and set of files agree in every byte of result and files."""

    async def scenario(pool: WasmPython) -> None:
        job = Job(SAME, seed=7, now=NOW, files=GIVEN, limits=ROOM)
        one, two = [await pool.run(job) for _ in range(2)]
        assert one.status == "ok", one.stderr
        assert (one.value, one.stdout, one.files) == (two.value, two.stdout, two.files)
        assert list(one.files) == ["n"]

    play(scenario)
