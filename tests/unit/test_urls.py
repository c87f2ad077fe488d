"""Passwords in URLs are masked, also in those that people write wrongly."""

from __future__ import annotations

import pytest

from celeriac.urls import mask_url


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:hunter2@localhost:6379/0", "redis://:**@localhost:6379/0"),
        ("amqp://guest:hunter2@host//", "amqp://guest:**@host//"),
        ("redis://user@host/0", "redis://user@host/0"),
        ("redis://:hun@ter2@host/0", "redis://:**@host/0"),
        ("redis://:hunter2/x@host:6379/0", "redis://:**@host:6379/0"),
        ("redis://:hun?ter#2@host:6379/0", "redis://:**@host:6379/0"),
        ("redis://host:6379/0?client=a@b", "redis://host:6379/0?client=a@b"),
        ("redis://host/0?password=hunter2&db=1", "redis://host/0?password=**&db=1"),
        ("rediss://host/0?ssl_keyfile=/k&auth_token=hunter2", "rediss://host/0?ssl_keyfile=**&auth_token=**"),
        ("amqp://u:hunter2@a//;amqp://u:hunter2@b//", "amqp://u:**@a//;amqp://u:**@b//"),
        ("sentinel://:hunter2@a:1;sentinel://:hunter2@b:2", "sentinel://:**@a:1;sentinel://:**@b:2"),
        ("sqlite:///celeriac.db", "sqlite:///celeriac.db"),
        ("disabled", "disabled"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://:hunter2@[::1]:6379/0", "redis://:**@[::1]:6379/0"),
        ("", ""),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize("password", ["6379", "1/2", "p;w", "a,b", "ü", "12345/x", ":", "a:b"])
def test_no_part_of_an_odd_password_is_shown(password: str) -> None:
    assert mask_url(f"redis://user:{password}@host:1/0") == "redis://user:**@host:1/0"
