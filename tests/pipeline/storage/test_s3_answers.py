"""Answers of S3 that come late, in part or not at all; the requests are scripted, no server is."""

import asyncio
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from aiohttp import ClientPayloadError
from botocore.exceptions import EndpointConnectionError

import pipeline.storage.s3
from models.errors import RequestError
from pipeline import storage
from pipeline.sources import parquet
from pipeline.storage.s3 import PATIENCE, NoAnswerError, PatientS3FileSystem, patience


class Body:
    """Bytes of an object, which are lost as they come as often as ``losses`` says."""

    losses = 0
    closed = 0

    async def read(self):
        if Body.losses:
            Body.losses -= 1
            raise ClientPayloadError("Response payload is not completed")
        return b"all of it"

    def close(self):
        Body.closed += 1


@pytest.fixture
def answers(monkeypatch):
    async def answer(self, method, *_, **__):
        return {"Body": Body()}

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", answer)
    monkeypatch.setattr(pipeline.storage.s3, "_WAIT", lambda _: 0.0)
    monkeypatch.setattr(Body, "losses", 0)
    monkeypatch.setattr(Body, "closed", 0)
    return PatientS3FileSystem(anon=True, skip_instance_cache=True)


def whole(s3):
    async def read():
        answer = await s3._call_s3("get_object", Bucket="b", Key="k")
        return await answer["Body"].read()

    return asyncio.run(read())


def test_bytes_that_are_lost_on_the_way_are_asked_for_again(answers):
    """More often than the five times within seconds that s3fs itself tries."""
    Body.losses = 9
    assert whole(answers) == b"all of it"
    assert Body.closed == 10


def test_bytes_that_never_come_are_named_within_the_patience(answers):
    Body.losses = 10**9
    with patience(0.05), pytest.raises(NoAnswerError, match=r"s3://b/k does not answer.*payload"):
        whole(answers)


@pytest.mark.parametrize("text", ["3m", "", "-1", "inf", "nan"])
def test_a_patience_that_is_no_number_of_seconds_is_refused(answers, monkeypatch, text):
    monkeypatch.setenv(PATIENCE, text)
    with pytest.raises(RequestError, match=f"{PATIENCE}={text}: give seconds, such as 180"):
        whole(answers)


@pytest.mark.parametrize("away", [NoAnswerError("no answer"), pa.ArrowMemoryError("malloc")])
def test_what_is_no_damage_is_not_called_damage(tmp_path, monkeypatch, away):
    """Of a Parquet file whose store goes away, or for which there is no memory."""
    path = str(tmp_path / "val.parquet")
    pq.write_table(pa.table({"image": [b"x"]}), path)

    class Away(io.FileIO):
        def read(self, *_):
            raise away

    monkeypatch.setattr(storage, "open_read", lambda path, *_: Away(path))
    with pytest.raises(type(away)) as caught, parquet._open(path):
        pass
    assert caught.value is away


def test_a_server_that_is_not_there_has_an_error_of_its_own(answers, monkeypatch):
    async def away(self, *_, **__):
        raise EndpointConnectionError(endpoint_url="http://nowhere")

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", away)
    with patience(0.0), pytest.raises(NoAnswerError, match="AWS_ENDPOINT_URL"):
        whole(answers)
