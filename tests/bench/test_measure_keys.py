"""Measuring keys, with a scripted store where it must fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import keyvouch
from keyvouch.algorithms import Algorithm
from keyvouch.bench import Plan, Run, Target, as_json, measure_keys, read_run
from keyvouch.bench.document import Key, Measurement
from keyvouch.config import Profile
from keyvouch.errors import (
    AlgorithmUnsupported,
    ConfigurationError,
    KeyNotFound,
    NotSupported,
    SessionLost,
    StoreUnavailable,
    Throttled,
)
from keyvouch.testing.authority import Authority
from scripted_store import Script

SHORT = Plan(seconds=0.05)


def find(run: Run, operation: str, algorithm: str | None = None, threads: int = 1) -> Measurement:
    """Return the only such measurement."""
    [found] = [
        each
        for each in run.measurements
        if each.operation == operation and algorithm in (None, each.algorithm) and each.threads == threads
    ]
    return found


def test_operations() -> None:
    """A key is opened, signs by itself and for assertions, and each of these is measured."""
    with Script() as script:
        run = measure_keys([script.uri], SHORT)
    assert [each.operation for each in run.measurements] == [
        "open_cold",
        "first_signature",
        "open_warm",
        "signature",
        "assertion",
        "stored_key",
    ]
    assert all(each.count and not each.errors and each.latency["p50"] > 0 for each in run.measurements)
    [key] = run.keys
    assert (key.label, key.uri, key.key_type, key.preferred) == ("A", script.uri, "P-256", "ES256")
    assert (key.plugin, key.error, run.interrupted) == ("scripted 1.0", None, False)


def test_cold_openings_connect() -> None:
    """A cold opening connects to the store; a warm one does not."""
    with Script() as script:
        run = measure_keys([script.uri], Plan(count=3))
    measured = {each.operation: each.count for each in run.measurements}
    assert measured["open_cold"] == measured["first_signature"] == measured["open_warm"] == 3
    connections = 2 * 3 + 2 * 4 + 2  # measured, for warming up, to look at the key and to sign
    assert 2 + 2 * 3 < script.count("connect") <= connections


def test_every_algorithm() -> None:
    """All algorithms that fit the key are measured, except those that the store does not support."""

    def sign(key: object, message: bytes, algorithm: Algorithm) -> bytes:
        if algorithm.family == "RSA-PSS":
            raise AlgorithmUnsupported("PKCS#1 only", hint="use RS256")
        return usual(key, message, algorithm)

    with Script("RSA-2048") as script:
        usual = script.signing
        script.signing = sign
        run = measure_keys([script.uri], SHORT)
    assert run.keys[0].unsupported == ("PS256", "PS384", "PS512")
    assert run.keys[0].preferred == "RS256"
    signatures = [each.algorithm for each in run.measurements if each.operation == "signature"]
    assert signatures == ["RS256", "RS384", "RS512"]


def test_chosen_algorithm() -> None:
    """With algorithms given, only these are measured, each with all numbers of threads."""
    with Script("RSA-2048") as script:
        run = measure_keys([script.uri], Plan(seconds=0.05, algorithms=["RS256"], threads=(1, 2)))
    found = [(each.algorithm, each.threads) for each in run.measurements if each.operation == "signature"]
    assert found == [("RS256", 1), ("RS256", 2)]


def test_no_chosen_algorithm_fits() -> None:
    """If a key supports none of them, it is not measured; the error says so if there is no other key."""
    with Script() as script, Script("RSA-2048") as other:
        with pytest.raises(AlgorithmUnsupported, match=r"ES256|RS256"):
            measure_keys([script.uri], Plan(seconds=0.05, algorithms=["RS256"]))
        run = measure_keys([script.uri, other.uri], Plan(seconds=0.05, algorithms=["RS256"]))
    assert "RS256" in (run.keys[0].error or "")
    assert {each.key for each in run.measurements} == {"B"}


def test_throttling_is_not_waited_for() -> None:
    """A limit is a result: nothing is repeated, and the key is left in peace."""
    calls = list[int]()

    def limit(timeout: float) -> None:
        calls.append(1)
        if len(calls) > 100:
            raise Throttled("too many", hint="wait", retry_after=3600)

    with Script() as script:
        script.before["sign"] = limit
        run = measure_keys([script.uri], SHORT)
    assert sum(each.errors.get("throttled", 0) for each in run.measurements) == 1
    assert len(calls) == 101


def test_unavailable_store_is_reported_at_once() -> None:
    """Each failure counts; a signer used otherwise would hide them by trying again."""
    with Script() as script:
        calls = list[int]()

        def fail(timeout: float) -> None:
            calls.append(1)
            if len(calls) % 10 == 0:
                raise StoreUnavailable("restarting", hint="wait")

        script.before["sign"] = fail
        run = measure_keys([script.uri], Plan(seconds=0.2))
    found = find(run, "signature", "ES256")
    assert found.errors["store-unavailable"] == pytest.approx(found.count / 9, abs=3)


def test_lost_session_is_restored() -> None:
    """As in production, a lost session costs a reconnection and no error."""
    with Script() as script:
        calls = list[int]()

        def lose(timeout: float) -> None:
            calls.append(1)
            if len(calls) == 100:
                raise SessionLost("gone", hint="")

        script.before["sign"] = lose
        run = measure_keys([script.uri], Plan(seconds=0.2))
    assert len(calls) > 100
    assert not find(run, "signature", "ES256").errors


def test_one_key_of_several_fails() -> None:
    """The others are measured, and its error is in the document."""
    with Script() as script:
        run = measure_keys([script.uri.replace("app", "missing"), script.uri], SHORT)
    assert run.keys[0].error == "Key not found: missing."
    assert {each.key for each in run.measurements} == {"B"}


def test_only_key_fails() -> None:
    """Its own error is raised."""
    with Script() as script, pytest.raises(KeyNotFound):
        measure_keys([script.uri.replace("app", "missing")], SHORT)


def test_invalid_uri() -> None:
    """A mistake in a URI is an error, also among others."""
    with Script() as script, pytest.raises(ConfigurationError):
        measure_keys([script.uri, f"{script.uri};colour=red"], SHORT)


def test_interrupted() -> None:
    """What was measured until then is returned, and all keys are closed."""
    with Script() as script:
        calls = list[int]()

        def interrupt(timeout: float) -> None:
            calls.append(1)
            if len(calls) == 1000:
                raise KeyboardInterrupt

        script.before["sign"] = interrupt
        run = measure_keys([script.uri], Plan(seconds=60))
        assert script.count("open") == script.count("close key")
    assert run.interrupted
    assert find(run, "open_cold").count


def test_document(tmp_path: Path) -> None:
    """The JSON form is read again as the same run, with the latencies of every operation."""
    with Script() as script:
        run = measure_keys([script.uri], SHORT)
    path = tmp_path / "run.json"
    path.write_text(as_json(run))
    again = read_run(path)
    assert again == run
    histogram = find(again, "signature").decoded_histogram()
    assert histogram is not None
    assert histogram.get_total_count() == find(run, "signature").count


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 100_000, b"[1]", b'{"format": 3}', b"\xff\xfe", b'{"keys": []}']
)
def test_other_file(tmp_path: Path, content: bytes) -> None:
    """A file that is not such a document is reported as that."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not the result of a benchmark"):
        read_run(path)


def test_file_that_powershell_has_written(tmp_path: Path) -> None:
    """A byte order mark is ignored, and for UTF-16 the error says how to convert the file."""
    with Script() as script:
        document = as_json(measure_keys([script.uri], Plan(count=1)))
    path = tmp_path / "run.json"
    path.write_text(document, encoding="utf-8-sig")
    assert read_run(path).keys
    path.write_text(document, encoding="utf-16")
    with pytest.raises(ConfigurationError) as caught:
        read_run(path)
    assert "Convert it from UTF-16" in caught.value.hint


def test_other_format(tmp_path: Path) -> None:
    """A document of a later version is not misread."""
    with Script() as script:
        run = measure_keys([script.uri], Plan(count=1))
    path = tmp_path / "run.json"
    path.write_text(as_json(run).replace("keyvouch-bench-1", "keyvouch-bench-2"))
    with pytest.raises(ConfigurationError, match="keyvouch-bench-2"):
        read_run(path)


@pytest.mark.parametrize(
    "values",
    [
        {"seconds": 0},
        {"seconds": float("nan")},
        {"count": 0},
        {"count": 1.5},
        {"threads": (0,)},
        {"threads": ("1",)},
        {"price": float("nan")},
        {"threads": (5000,)},
        {"rate": 0},
        {"rate": float("inf")},
        {"rate": 0.01},
        {"rate": 10, "threads": (1, 2)},
        {"algorithms": ["PS128"]},
    ],
)
def test_invalid_plan(values: dict[str, object]) -> None:
    """Numbers that cannot be measured are refused before a key is opened."""
    with pytest.raises(ConfigurationError):
        Plan(**values)  # type: ignore[arg-type]


def test_rate() -> None:
    """With a rate, signatures and assertions start at that rate; openings do not."""
    with Script("RSA-2048") as script:
        run = measure_keys([script.uri], Plan(seconds=0.5, rate=100))
    found = [(each.operation, each.algorithm) for each in run.measurements if each.rate]
    assert found == [("signature", "PS256"), ("assertion", "PS256")]
    assert all(0 < each.count <= 55 for each in run.measurements if each.rate)


def test_peer() -> None:
    """The bare library is measured only on request, and only if the store offers it."""
    with Script() as script:
        without = measure_keys([script.able_uri], SHORT)
        run = measure_keys([script.able_uri, script.uri], Plan(seconds=0.05, peer=True))
    assert "peer" not in [each.operation for each in without.measurements]
    assert [each.key for each in run.measurements if each.operation == "peer"] == ["A"]


def test_file(tmp_path: Path) -> None:
    """A real key, as in the three lines of the documentation."""
    uri = f"pem:{tmp_path}/app.pem"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(key_type="P-256"))
    run = measure_keys([uri], SHORT)
    assert find(run, "assertion").count


def refuse(keys: Sequence[Key]) -> bool:
    raise AssertionError("asked for no reason")


def test_no_question_without_limits() -> None:
    """Stores that publish no limits are not asked about."""
    with Script() as script:
        run = measure_keys([script.uri], Plan(count=1), confirm=refuse)
    assert run.measurements


def test_token(tmp_path: Path) -> None:
    """A token is requested each time, by a client of the profile that has only this key."""
    uri = f"pem:{tmp_path}/app.pem"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(key_type="RSA-2048"))
    with Authority() as authority:
        with keyvouch.open_signer(uri) as signer:
            app = authority.register(certificates=signer.chain)
        profile = Profile(
            authority=authority.url,
            tenant=app.tenant,
            client_id=app.client_id,
            scopes=("https://graph.microsoft.com/.default",),
            keys=("pem:/missing.pem", uri),
            ca_file=authority.ca_file,
        )
        run = measure_keys([Target(uri, "nightly", profile)], Plan(count=5, token=True))
        assert find(run, "token").count == 5
        assert len(authority.exchanges) in (5 + 1, 5 + 2)  # and one or two to warm up


def test_token_without_profile() -> None:
    """Without a profile there is no client: an error before anything is measured."""
    with Script() as script, pytest.raises(ConfigurationError, match="not from a profile"):
        measure_keys([script.uri], Plan(count=1, token=True))


def test_peer_that_is_not_supported() -> None:
    """A key that the bare library cannot be measured with has the reason in place of figures."""
    with Script() as script:
        script.always["peer"] = NotSupported("no peer for this key", hint="")
        run = measure_keys([script.able_uri], Plan(count=3, peer=True))
    found = find(run, "peer")
    assert (found.count, found.errors, found.error) == (0, {"not-supported": 1}, "no peer for this key")


def test_text_of_a_library_is_not_repeated() -> None:
    """A library's exception may contain a secret, so only its class is shown."""
    with Script() as script:

        def refuse(timeout: float) -> None:
            raise ValueError("https://user:hunter2@vault:8200")

        script.before["peer"] = refuse
        run = measure_keys([script.able_uri], Plan(count=5, peer=True))
    assert find(run, "peer").errors == {"ValueError": 1}
    assert "hunter2" not in as_json(run)


def test_peer_after_a_reconnection() -> None:
    """What the bare library holds belongs to one connection; after another login it is made again."""
    with Script() as script:
        peers = list[int]()

        def lose(timeout: float) -> None:
            if peers == [1]:
                peers.append(0)
                script.drop()

        script.before["peer"] = lambda timeout: peers.append(1)
        script.before["sign"] = lose
        run = measure_keys([script.able_uri], Plan(seconds=0.2, peer=True))
    assert peers == [1, 0, 1]
    assert not find(run, "peer").errors


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": [0.0]},
        {"rounds": [1.7e308]},
        {"latency": {}},
        {"latency": {"p50": 1}},
        {"key": "Z"},
        {"per_second": {"value": 0, "low": None, "high": None}},
    ],
)
def test_impossible_figures(tmp_path: Path, wrong: dict[str, object]) -> None:
    """A document with times that cannot be shown or compared is refused."""
    with Script() as script:
        document = json.loads(as_json(measure_keys([script.uri], Plan(count=1))))
    document["measurements"] = [each | wrong for each in document["measurements"]]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match="is not the result of a benchmark"):
        read_run(path)


def test_throttled_openings() -> None:
    """An opening that the service limits is counted, and not waited for."""
    with Script() as script:
        calls = list[int]()

        def limit(timeout: float) -> None:
            calls.append(1)
            if len(calls) == 10:
                raise Throttled("too many", hint="wait", retry_after=3600)

        script.before["open"] = limit
        run = measure_keys([script.uri], SHORT)
    assert sum(each.errors.get("throttled", 0) for each in run.measurements) == 1
    assert len(calls) <= 11  # the key is opened once more, for what needs an open key, and then left in peace


def test_keys_of_one_connection_share_its_limit() -> None:
    """Once one key of a vault is throttled, the others are left in peace, too."""
    with Script() as script:
        script.keys["other"] = script.keys["app"]
        calls = list[int]()

        def limit(timeout: float) -> None:
            calls.append(1)
            if len(calls) == 200:
                raise Throttled("too many", hint="wait")

        script.before["sign"] = limit
        run = measure_keys([script.uri, script.uri.replace("key=app", "key=other")], SHORT)
    assert len(calls) == 200
    assert sum(each.errors.get("throttled", 0) for each in run.measurements) == 1


def test_second_opening_fails() -> None:
    """A key that can no longer be opened is left out, and what was measured is kept."""
    with Script() as script, Script() as other:

        def fail(timeout: float) -> None:
            both_are_kept_open = script.count("open") > script.count("close key")
            if both_are_kept_open and other.count("open") > 1:
                raise StoreUnavailable("gone", hint="wait")

        other.before["open"] = fail
        run = measure_keys([script.uri, other.uri], SHORT)
    assert {each.key for each in run.measurements if each.operation == "signature"} == {"A"}


def test_no_confirmation() -> None:
    """If nothing is left to measure, that is an error."""
    with pytest.raises(ConfigurationError, match="Nothing was measured"):
        measure_keys([], SHORT)
