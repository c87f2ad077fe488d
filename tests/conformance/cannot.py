"""What an engine cannot give: the conformance tests that fail on it, each with the reason.

They are run all the same, and must fail as it is said here: a test that passes must be taken off the list.
Only what fails by waiting, or by chance, is left out; ``test_cannot.py`` shows the reason for these.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import pytest

from celeriac.exceptions import EncodeError, ImproperlyConfigured, OperationalError

DidNotRaise: Final = pytest.fail.Exception


class Cannot(NamedTuple):
    """Tests that fail for one reason."""

    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...]
    """How they fail."""
    tests: tuple[str, ...]
    """``file::test`` without their prefixes, or ``file::test[parameter]``."""


RABBITMQ_HAS_NO: Final = {
    "checkpoints": "keep_checkpoint",
    "coordination": "limit_rate",
    "groups": "open_chord",
    "history": "note_attempts",
    "machine": "fetch",
    "places": "enter",
    "results": "store",
    "schedules": "put_entries",
    "ticks": "fire",
}
"""Whole files, and the step of the contract that the engine has not: it is a broker only, and these are
another store's."""

RABBITMQ: Final = (
    Cannot(
        "It keeps no results, and no chords with them: another store does.",
        AttributeError,
        (
            "concurrency::a_forked_child_uses_the_engine_and_leaves_its_parent_s_alone",
            "settle::a_token_settles_once",
            "settle::a_token_that_is_not_held_changes_nothing",
            "settle::nobody_settles_another_s_message",
            "settle::result_and_follow_ups_are_stored_with_the_ack",
            "settle::results_of_other_tasks_are_stored_with_an_outcome",
            "settle::settling_does_not_replace_success",
            "settle::states_of_other_tasks_are_stored_in_the_same_step",
            "settle::states_of_other_tasks_replace_no_success",
            "unique::follow_ups_of_an_owed_body_are_left_out_silently",
            "unique::what_is_left_out_is_not_known_as_queued",
        ),
    ),
    Cannot(
        "Threads store results in it, and it keeps none.",
        AssertionError,
        ("concurrency::one_engine_serves_many_threads",),
    ),
    Cannot(
        "It keeps no rate limits, so nothing is parked in it: another store keeps them.",
        AttributeError,
        (
            "looking::cancel_finds_delayed_and_parked_messages",
            "looking::depth_counts_every_state",
            "looking::everything_survives_a_reopening",
            "looking::find_gives_what_cancel_would_remove",
            "looking::peek_shows_each_state",
            "looking::purge_deletes_what_is_not_leased",
            "moving::new_messages_are_admitted_once_the_parked_are_gone",
            "moving::parked_messages_become_ready",
            "settle::every_verdict_may_bring_a_result_and_follow_ups",
            "unique::cancelling_the_parked_frees_the_key",
            "unique::purging_the_parked_frees_the_key",
        ),
    ),
    Cannot(
        "It does not know which workers live: another store does.",
        AttributeError,
        (
            "lost_owners::a_node_that_leaves_gives_everything_back_uncounted",
            "lost_owners::nodes_tells_of_the_living",
        ),
    ),
    Cannot(
        "There is no place where a pause would be kept for all workers.",
        (AttributeError, ImproperlyConfigured),
        (
            "claim::a_pause_survives_and_can_be_read",
            "claim::a_paused_queue_gives_nothing_until_it_is_resumed",
            "claim::delayed_messages_of_a_paused_queue_wait",
            "moving::a_paused_queue_s_messages_are_brought_forward",
            "wait::a_paused_queue_does_not_keep_its_sleepers_awake",
            "wait::whatever_makes_a_message_ready_wakes[resume]",
        ),
    ),
    Cannot(
        "What waits is moved level by level of delay, not in the order in which it falls due.",
        AssertionError,
        ("moving::delayed_messages_become_ready_and_say_when_they_are_due",),
    ),
    Cannot(
        "A message can be seen only by taking it.",
        ImproperlyConfigured,
        ("looking::peek_goes_in_order_by_page", "settle::settles_come_in_any_order"),
    ),
    Cannot(
        "Delayed and leased messages cannot be counted, found or taken out.",
        AssertionError,
        (
            "claim::a_message_that_names_itself_in_its_properties_only",
            "looking::cancel_finds_a_retry",
            "looking::find_gives_the_envelope_as_it_will_be_delivered",
            "looking::two_delayed_messages_of_one_id_are_both_kept",
            "settle::a_claim_whose_answer_is_lost_is_answered_again",
            "settle::a_bad_follow_up_settles_nothing",
            "settle::ack_makes_it_gone",
            "settle::settle_and_claim_are_one_exchange",
            "unique::cancelling_the_delayed_frees_the_key[ended]",
            "unique::purging_frees_the_key[delayed]",
        ),
    ),
    Cannot(
        "Nobody sees what a purge deletes, so the keys that it held are free when their time is over.",
        AssertionError,
        ("unique::purging_frees_the_key[ready]",),
    ),
    Cannot(
        "The server tells nobody when the next delay ends.",
        AssertionError,
        (
            "claim::a_delayed_message_waits_its_delay_by_the_store_s_clock",
            "claim::a_due_time_is_an_epoch_second",
            "claim::next_due_is_of_the_queues_asked_for",
            "settle::delay_delivers_the_old_envelope_again_later",
            "settle::delay_until_a_due_time",
        ),
    ),
    Cannot(
        "What a consumer holds comes back by itself when its connection ends; nobody else can touch it.",
        (AssertionError, IndexError),
        (
            "lost_owners::a_dead_process_on_this_host_is_recovered_at_once",
            "lost_owners::another_engine_recovers_too",
            "lost_owners::close_without_detach_leaves_the_leases_for_release",
            "lost_owners::however_it_is_lost_a_message_marked_once_comes_back_marked[leave]",
            "lost_owners::however_it_is_lost_a_message_marked_once_comes_back_marked[recover]",
            "lost_owners::mark_once_tells_whether_the_lease_is_held",
            "lost_owners::recovery_is_done_once",
            "lost_owners::release_gives_back_in_claim_order_to_the_front",
            "lost_owners::release_is_safe_to_repeat_and_fences_the_owner",
            "lost_owners::the_first_started_are_the_lowest_tokens_of_each_owner",
            "moving::an_owner_that_starts_nothing_costs_no_delivery",
            "settle::a_refused_outcome_stores_no_states_of_others",
            "settle::an_owner_lost_before_its_repeat_is_fenced",
            "settle::what_its_owner_has_settled_the_agent_cannot_give_back",
            "settle::what_the_agent_gave_back_its_owner_cannot_settle",
            "unique::a_refused_outcome_frees_nothing",
        ),
    ),
    Cannot(
        "A node's own queues go by themselves, when nobody has used them for a while.",
        AssertionError,
        ("bindings::a_dead_node_s_own_queues_go_with_it_and_not_those_of_its_next_life",),
    ),
    Cannot(
        "A connection is the lease, so no owner is ever told that it was recovered.",
        DidNotRaise,
        ("lost_owners::a_recovered_node_attaches_no_more",),
    ),
    Cannot(
        "An ack has no answer: after a lost connection outcomes count as refused, and messages come again.",
        AssertionError,
        (
            "settle::a_retry_whose_answer_is_lost_is_delayed_once",
            "settle::a_settle_that_never_arrived_is_carried_out_by_its_repeat",
            "settle::a_settle_whose_answer_is_lost_takes_effect_once",
            "settle::exchanges_go_on_after_a_repeat",
        ),
    ),
    Cannot(
        "What is given back goes to the end of the line: a basic.nack would count as a failed delivery.",
        AssertionError,
        (
            "claim::a_message_given_back_returns_to_its_lane",
            "settle::give_back_keeps_the_place_in_line",
        ),
    ),
    Cannot(
        "It comes back with another delivery tag in its properties.",
        AssertionError,
        (
            "lost_owners::a_loss_keeps_the_rest_of_the_envelope",
            "settle::give_back_changes_nothing_in_the_envelope",
        ),
    ),
    Cannot(
        "A delayed message cannot be replaced, so there is no debouncing.",
        ImproperlyConfigured,
        (
            "moving::a_key_held_while_delayed_is_free_once_it_is_brought_forward",
            "unique::a_key_held_while_delayed_is_free_after_its_ttl",
            "unique::a_key_held_while_delayed_is_free_once_it_is_claimed",
            "unique::a_retry_does_not_take_the_debouncing_key_again",
            "unique::cancelling_the_delayed_frees_the_key[delayed]",
            "unique::replacing_puts_it_off",
            "unique::the_delayed_message_is_replaced",
            "unique::what_has_gone_is_not_replaced",
            "unique::what_runs_already_is_not_replaced",
        ),
    ),
    Cannot(
        "Key and message are two steps, so a message whose key is its own already goes out again.",
        AssertionError,
        ("unique::the_holder_itself_is_left_out_too",),
    ),
    Cannot(
        "A key's queue does not tell until when it is held: an end that names the key frees it.",
        AssertionError,
        ("unique::a_key_held_for_a_time_outlives_the_task",),
    ),
    Cannot(
        "The server pushes ahead, queue by queue.",
        AssertionError,
        (
            "claim::urgent_messages_of_a_later_queue_come_before_lax_ones_of_an_earlier",
            "wait::waiting_takes_no_message",
        ),
    ),
    Cannot("AMQP's numbers have 64 bits.", EncodeError, ("claim::the_envelope_arrives_byte_for_byte",)),
    Cannot(
        "A broadcast needs its exchange.",
        OperationalError,
        ("bindings::without_a_bound_queue_a_broadcast_reaches_nobody",),
    ),
    Cannot(
        "Only queues can be the goal of a delay.",
        ImproperlyConfigured,
        ("bindings::a_delayed_broadcast_waits_in_each_queue",),
    ),
    Cannot(
        "Clients are not told what is bound to an exchange, and the server counts every consumer.",
        AssertionError,
        (
            "bindings::a_node_that_leaves_takes_its_own_queues_along",
            "bindings::there_are_no_consumers_beside_the_nodes",
        ),
    ),
    Cannot(
        "The time of a dead letter is the worker's, and its result is another store's.",
        (AssertionError, AttributeError),
        ("dead_letters::a_dead_letter_keeps_everything",),
    ),
    Cannot(
        "Dead letters of all queues share one bounded queue.",
        AssertionError,
        ("dead_letters::dead_letters_are_bounded_in_number",),
    ),
)

RABBITMQ_WAITS: Final = {
    "claim::claims_settles_and_follow_ups_by_the_thousand": "the server decides how much it sends at a time",
    "claim::delayed_messages_come_in_the_order_they_fall_due": "delays are whole seconds",
    "claim::equal_due_times_keep_publish_order": "levels of delay may change the order within a second",
    "lost_owners::a_fresh_lease_is_not_for_ever": "nobody recovers",
    "lost_owners::an_overdue_node_is_recovered": "nobody recovers",
    "unique::what_only_goes_on_frees_nothing": "a retry takes a moment, and nobody else can give back",
    "wait::whatever_makes_a_message_ready_wakes[agent]": "nobody else can give back",
    "wait::whatever_makes_a_message_ready_wakes[close]": "it wakes or not, as the server notices",
    "wait::whatever_makes_a_message_ready_wakes[leave]": "nobody else can give back",
    "wait::whatever_makes_a_message_ready_wakes[recover]": "nobody recovers",
    "wait::whatever_makes_a_message_ready_wakes[release]": "nobody else can give back",
}
"""Left out because they fail by waiting in vain, or not each time."""
