"""Each guarantee has tests on each engine that gives it, and none of them has gone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from celeriac import Celeriac
from celeriac.contrib import conformance
from tests.conformance.cannot import RABBITMQ, RABBITMQ_HAS_NO, RABBITMQ_WAITS
from tests.integration.conftest import NOT_ON_RABBITMQ

ROOT: Final = Path(__file__).parents[2]
SUITE: Final = Path(conformance.__file__).parent
ENGINES: Final = ("sqlite", "redis", "postgres", "rabbitmq", "memory")
RABBIT_CANNOT: Final = {*RABBITMQ_WAITS, *(name for group in RABBITMQ for name in group.tests)}

WORKER: Final = "integration/test_worker.py::"
RABBIT: Final = "integration/test_rabbitmq.py::"
CHORDS: Final = "integration/test_chords.py::"

PROOFS: Final[dict[str, tuple[str, ...]]] = {
    "G1": (
        "claim::what_one_has_claimed_no_other_gets",
        "claim::a_batch_is_stored_whole_or_not_at_all",
        "carrier::nothing_is_lost_or_doubled",
        "concurrency::publishers_and_consumers_at_once_lose_and_double_nothing",
        f"{WORKER}test_a_task_that_must_not_repeat_does_not",
        "unit/test_sqlite_faults.py::test_killed_workers_lose_nothing",
        "unit/test_redis_faults.py::test_a_restarted_server_has_everything_and_nobody_is_dead",
        "unit/test_postgres_faults.py::test_nothing_acknowledged_is_lost_when_the_server_crashes",
        "unit/test_rabbitmq_faults.py::test_what_was_confirmed_before_a_cut_is_there",
        "unit/test_redis_faults.py::test_a_publish_whose_reply_is_lost_is_not_repeated",
        "unit/test_postgres_faults.py::test_a_publish_whose_answer_is_lost_says_so_and_is_not_repeated",
        "unit/test_rabbitmq_faults.py::test_a_publish_that_is_cut_off_before_its_confirm_says_so",
        "integration/test_rabbitmq_server.py::test_what_was_confirmed_outlives_the_death_of_the_server",
    ),
    "G2": (
        "lost_owners::a_node_that_beats_keeps_its_leases",
        f"{RABBIT}test_a_task_that_holds_the_interpreter_keeps_its_connection",
        "integration/test_rabbitmq_server.py::test_a_task_that_outlives_consumer_timeout",
    ),
    "G3": (
        "lost_owners::an_overdue_node_is_recovered",
        "lost_owners::after_the_store_was_away_everybody_has_a_fresh_lease",
        "lost_owners::a_dead_process_on_this_host_is_recovered_at_once",
        "lost_owners::release_counts_on",
        f"{WORKER}test_a_killed_child_is_noticed_and_its_task_runs_again",
        f"{WORKER}test_a_killed_node_gives_its_tasks_to_the_next_one_at_once",
        f"{RABBIT}test_a_frozen_node_s_task_runs_elsewhere_after_its_heartbeats_stop",
        f"{RABBIT}test_a_vanished_machine_is_noticed_in_time_by_default",
    ),
    "G4": (
        "settle::a_token_that_is_not_held_changes_nothing",
        "settle::an_owner_lost_before_its_repeat_is_fenced",
        "claim::tokens_go_on_growing_when_the_store_is_opened_again",
        f"{WORKER}test_a_task_sees_its_fencing_token",
        f"{WORKER}test_a_frozen_node_is_taken_over_and_refused_when_it_wakes",
        "unit/test_redis_faults.py::test_tokens_grow_over_the_loss_of_everything",
        "unit/test_postgres_faults.py::test_tokens_grow_over_the_loss_of_everything",
        "unit/test_rabbitmq_faults.py::test_a_settle_that_is_cut_off_is_refused_and_the_message_comes_back",
        "unit/test_runner.py::test_a_copy_runs_only_if_the_other_one_has_no_result_yet",
    ),
    "G5": (
        "lost_owners::release_counts_on",
        f"{WORKER}test_a_poison_message_ends_as_dead_letter_and_harms_no_neighbour",
        f"{WORKER}test_the_hard_limit_is_an_outcome_and_runs_once",
        f"{WORKER}test_after_the_grace_a_task_is_given_back_uncounted",
    ),
    "G6": (
        "dead_letters::a_dead_letter_keeps_everything",
        "dead_letters::dead_letters_survive",
        "dead_letters::dead_letters_are_bounded_in_number",
        "dead_letters::dead_letters_are_bounded_in_age",
        "dead_letters::undecodable_bytes_travel_to_the_dead_letters_and_back",
        f"{WORKER}test_an_unknown_task_is_a_dead_letter_and_a_failure",
        f"{WORKER}test_an_expired_task_does_not_run",
        f"{WORKER}test_a_revoked_task_does_not_run_even_if_it_was_revoked_before_any_worker_came",
        "integration/test_bad_input.py::test_what_is_no_message_is_kept_as_a_dead_letter",
        "unit/test_rabbitmq_faults.py::test_dead_letters_of_all_queues_share_one_bound",
    ),
    "G7": (
        "claim::a_delayed_message_waits_its_delay_by_the_store_s_clock",
        "looking::everything_survives_a_reopening",
        "claim::a_delayed_message_keeps_its_priority",
        f"{WORKER}test_a_countdown_is_kept_over_a_restart_of_the_worker",
        f"{WORKER}test_a_retry_waits_in_the_store_and_succeeds",
        f"{RABBIT}test_a_revoked_delayed_task_is_revoked_when_it_is_due",
        "unit/test_rabbitmq_wire.py::test_a_delay_is_rounded_up_and_written_in_28_bits",
    ),
    "G8": (
        "settle::give_back_keeps_the_place_in_line",
        "lost_owners::close_gives_back_and_forgets",
        f"{WORKER}test_sigterm_finishes_what_runs_and_leaves_the_rest",
        f"{WORKER}test_after_the_grace_a_task_is_given_back_uncounted",
        f"{WORKER}test_a_task_that_cannot_be_given_back_is_waited_for",
    ),
    "G9": (
        "ticks::leaders_that_race_fire_each_tick_once",
        "ticks::a_stale_term_changes_nothing",
        "schedules::of_many_who_ask_at_once_one_leads",
        "integration/test_beat.py::test_another_beat_takes_over_within_ten_seconds_of_kill_9_and_at_once_after_a_stop",
        "unit/test_beat.py::test_where_stores_differ_a_beat_that_dies_before_the_mark_sends_nothing_twice",
        "unit/test_beat.py::test_without_a_shared_store_it_works_alone_and_says_so",
    ),
    "G10": (
        "groups::completion_is_told_once",
        "groups::of_many_at_once_one_takes_it",
        "groups::what_was_taken_and_not_settled_is_owed_again",
        "groups::a_task_counts_once_whatever_it_is_recorded_as_later",
        f"{CHORDS}test_a_chord_survives_its_workers_and_delays",
        f"{CHORDS}test_a_failure_reaches_the_error_callbacks",
        f"{CHORDS}test_a_header_task_that_does_not_succeed_fails_the_chord",
        "unit/test_chords.py::test_apart_a_taker_that_dies_before_it_settles_sends_nothing_twice",
        "faults/test_chord_faults.py::test_every_chord_ends_once_whoever_dies_between_two_stores",
    ),
    "G11": (
        "integration/test_security.py::test_only_signed_messages_run_and_only_signed_results_are_believed",
        "integration/test_security.py::test_a_format_that_is_not_accepted",
        "integration/test_security.py::test_a_stored_exception_makes_nothing_but_exceptions",
        "unit/test_urls.py::test_passwords_are_masked",
        "unit/test_redaction.py::test_parameters_and_keys_with_telling_names_are_hidden_at_any_depth",
    ),
    "G12": (
        "integration/test_bad_input.py::test_an_argument_that_cannot_be_serialised_is_named",
        "integration/test_bad_input.py::test_wrong_arguments_fail_where_the_call_is_made",
        "unit/test_settings_loading.py::test_a_near_miss_is_an_error_that_names_the_setting",
        "unit/test_result_sets.py::test_waiting_is_refused_where_it_blocks",
    ),
}


def engines_of(proof: str) -> set[str]:
    """On which engines a proof runs. Raises ``AssertionError`` for a test that is not there."""
    file, _, name = proof.partition("::")
    if not file.endswith(".py"):  # of the conformance suite
        assert f"\ndef test_{name}(" in (SUITE / f"test_{file}.py").read_text(), f"{proof} has gone"
        cannot = file in RABBITMQ_HAS_NO or proof in RABBIT_CANNOT
        return {*ENGINES} - ({"rabbitmq"} if cannot else set())
    found = re.search(
        rf"((?:^@.*\n)*)^def {name}\(([^)]*)", (ROOT / "tests" / file).read_text(), re.MULTILINE
    )
    assert found, f"{proof} has gone"
    named = {engine for engine in ENGINES if engine in file}
    if named:
        return named
    if not re.search(r"\b(site|beats): ", found[2]) or not file.startswith("integration/"):
        return {*ENGINES}  # it has nothing to do with the store
    marked = re.search(r"mark\.engines\((.*?)\)", found[1])
    if marked:
        return set(re.findall(r"\w+", marked[1]))
    return {*ENGINES} - {"memory"} - ({"rabbitmq"} if name in NOT_ON_RABBITMQ else set())


@pytest.mark.parametrize("guarantee", PROOFS)
def test_each_guarantee_has_a_test_on_each_engine(guarantee: str) -> None:
    shown = {engine for proof in PROOFS[guarantee] for engine in engines_of(proof)}
    assert shown == {*ENGINES}


def test_every_guarantee_is_listed() -> None:
    headings = re.findall(r"^### (G\d+)\.", (ROOT / "docs/design/guarantees.md").read_text(), re.MULTILINE)
    assert headings == list(PROOFS)
    assert [f"[{name}]" in (ROOT / "README.md").read_text() for name in PROOFS] == [True] * len(PROOFS)


UNITS: Final = {"": 1, " s": 1, " min": 60, " days": 86400}


def test_defaults_that_the_pages_name_are_those_of_the_settings() -> None:
    with Celeriac(set_as_current=False) as app:
        checked = 0
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
            named = re.findall(r"`([a-z_]+)`,? \(?(\d[\d,.]*)( s| min| days)?", page.read_text())
            for setting, number, unit in named:
                if setting in app.conf and not isinstance(app.conf[setting], dict):
                    default = float(number.replace(",", "").rstrip(".")) * UNITS[unit]
                    assert app.conf[setting] == default, f"{page.name}: {setting}"
                    checked += 1
        assert checked >= 11
