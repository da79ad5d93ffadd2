import pytest

from backend.errors import ImageError, LabelStudioError
from backend.labelstudio.images import hosts
from backend.labelstudio.images.hosts import AllowedHost
from tests.labelstudio.pictures import PNG
from tests.labelstudio.web import PUBLIC, Web, redirect

IMAGE = "http://good.test/x.png"


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("good.test", "http://good.test/x"),
        ("good.test", "https://GOOD.test/x"),
        ("good.test", "https://good.test:443/x"),
        ("good.test:8000", "http://good.test:8000/x"),
        ("good.test:80", "http://good.test/x"),
        ("10.1.2.3:9000", "http://10.1.2.3:9000/x"),
        ("[::1]:9000", "http://[::1]:9000/x"),
        ("b\u00fccher.test", "http://xn--bcher-kva.test/x"),
        ("good.test=private", "http://good.test/x"),
    ],
)
def test_an_entry_means_one_host_and_one_port(entry, url):
    assert AllowedHost.parse(entry).fits(*hosts.origin(url))


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("good.test", "http://good.test:8000/x"),
        ("good.test", "http://good.test:443/x"),
        ("good.test:8000", "http://good.test/x"),
        ("good.test", "http://www.good.test/x"),
        ("good.test", "http://good.test.evil.test/x"),
        ("good.test", "http://evil.test/good.test"),
        ("good.test", "http://good.test@evil.test/x"),
        ("127.0.0.1", "http://2130706433/x"),
    ],
)
def test_an_entry_means_nothing_else(entry, url):
    assert not AllowedHost.parse(entry).fits(*hosts.origin(url))


@pytest.mark.parametrize(
    "entry", ["http://good.test", "good.test/images", "u:p@good.test", "a b", "", ":80", "h:x"]
)
def test_an_entry_that_is_no_host_is_refused_in_words(entry):
    with pytest.raises(ValueError, match="is no host"):
        AllowedHost.parse(entry)


PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::a9fe:a9fe",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_known_in_every_form(address):
    assert not hosts.is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1", "64:ff9b::808:808"])
def test_public_addresses_are_public(address):
    assert hosts.is_public(address)


@pytest.mark.parametrize("found", [["10.0.0.1"], [PUBLIC, "127.0.0.1"], ["::1"], []])
def test_an_allowed_name_with_a_private_address_is_not_asked(found, tmp_path):
    web = Web({IMAGE: PNG}, names={"good.test": found})
    with pytest.raises(ImageError, match="private address.*write good.test=private"):
        web.store(tmp_path, allowed_hosts=("good.test",)).load(IMAGE, 1)
    assert web.asked == []


@pytest.mark.parametrize(
    ("entry", "image"),
    [
        ("good.test=private", IMAGE),
        ("10.0.0.1", "http://10.0.0.1/x.png"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/x.png"),
    ],
)
def test_a_private_one_is_asked_when_the_entry_says_so(entry, image, tmp_path):
    web = Web({image: PNG}, names={"good.test": ["10.0.0.1"]})
    assert web.store(tmp_path, allowed_hosts=(entry,)).load(image, 1).shape == (4, 6, 3)


def test_a_name_is_resolved_once_and_asked_at_the_address_that_was_checked(tmp_path):
    """DNS may answer differently a moment later."""
    answers = [[PUBLIC], ["127.0.0.1"]]
    web = Web({"https://good.test/x.png": PNG})
    web.resolve = lambda host: answers.pop(0)
    web.store(tmp_path, allowed_hosts=("good.test",)).load("https://good.test/x.png", 1)
    (request,) = web.asked
    assert request.url.host == PUBLIC and request.headers["host"] == "good.test"
    assert request.extensions["sni_hostname"] == "good.test"
    assert len(answers) == 1


def test_a_redirect_is_resolved_and_checked_as_well(tmp_path):
    web = Web({IMAGE: redirect("http://other.test/x.png")}, names={"other.test": ["127.0.0.1"]})
    with pytest.raises(ImageError, match="'other.test' has the private address 127.0.0.1"):
        web.store(tmp_path, allowed_hosts=("good.test", "other.test")).load(IMAGE, 1)
    assert len(web.asked) == 1


def test_ipv4_is_preferred_and_a_name_without_address_is_explained(tmp_path):
    assert hosts.pinned(IMAGE, ["good.test"], lambda _: ["2606:4700::1", PUBLIC]) == PUBLIC
    web = Web({}, names={"good.test": OSError("no such name")})
    with pytest.raises(ImageError, match="cannot be resolved .no such name."):
        web.store(tmp_path, allowed_hosts=("good.test",)).load(IMAGE, 1)


def test_this_machine_resolves_its_own_name():
    assert set(hosts.addresses("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(LabelStudioError, match="private address"):
        hosts.pinned("http://localhost/x", ["localhost"], hosts.addresses)
