"""Rules, what each promises, the test that shows it, and a mutant: a small change that takes the rule out of the code.

`test_mutants.py` applies each mutant to a copy of the package and demands that the named test fails; docs/rules.md is written
from this table. A mutant is (file below zmqkit/, old text, new text); the old text stands exactly once in that file.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    name: str
    promise: str
    test: str
    file: str
    old: str
    new: str


LINKS, PUTS = "test_machine_links.py::", "test_machine_publishing.py::"
LEASES, SETTLING, MEMORY = "test_machine_leasing.py::", "test_machine_settling.py::", "test_machine_memory.py::"
STORY = "test_sim_stories.py::"
CALLS, KEYS, LIMITS = "test_machine_calls.py::", "test_machine_calls_keys.py::", "test_machine_calls_limits.py::"
CALLER, REQUESTS, CALL_STORY = "test_client_calls.py::", "test_client_requests.py::", "test_sim_call_stories.py::"
TOPICS, FOLLOWERS, TOPIC_STORY = "test_machine_topics.py::", "test_topic_following.py::", "test_sim_topic_stories.py::"
RIGHTS, QUOTAS = "test_machine_rights.py::", "test_machine_quotas.py::"
AT_CALLS = "machines/calls.py"
TOPIC, AT_TOPICS, FANOUT, FOLLOWING = "machines/topic.py", "machines/topics.py", "machines/fanout.py", "machines/following.py"
NODE, PUBLISHING, LEASING = "machines/node.py", "machines/publishing.py", "machines/leasing.py"

RULES = [
    Rule(
        "R-L1", "A routing id that did not say HELLO is told so, and nothing of it is applied.",
        LINKS + "test_what_comes_on_a_link_that_was_given_up_is_not_applied",
        NODE, "            self._peers.pop(client.peer, None)\n            self._lose(client)\n",
        "            self._lose(client)\n",
    ),
    Rule(
        "R-L2", "A link whose READY is not echoed within patience is given up, and another one opened.",
        STORY + "test_rl2_a_link_on_which_nothing_comes_back_is_given_up",
        "machines/link.py", "welcome.patience or phases.PATIENCE_SECONDS", "1e6",
    ),
    Rule(
        "R-L3", "The newest link number of a client wins; a late HELLO of an older one is ignored.",
        LINKS + "test_a_late_hello_of_an_older_link_is_ignored",
        NODE, "        if command.link <= client.link:", "        if not command.link:",
    ),
    Rule(
        "R-L4", "What waits for the disk leaves in the order in which it was said; a refusal overtakes no confirm.",
        LINKS + "test_a_refusal_does_not_overtake_a_confirm_that_waits",
        PUBLISHING, "        after = stream.answers[-1].after if stream is not None and stream.answers else 0", "        after = 0",
    ),
    Rule(
        "R-L4 held", "A confirm leaves only when its record is durable.",
        LINKS + "test_a_confirm_waits_until_its_record_is_durable",
        "host.py", "            if send.after and (self._held or send.after > self._log.durable):", "            if False:",
    ),
    Rule(
        "R-L5", "A new or returned message is leased only when that is durable.",
        LINKS + "test_a_new_message_is_leased_only_when_it_is_durable",
        "machines/queue.py", "        self.waiting.append((position, self, row))", "        self.land(row)",
    ),
    Rule(
        "R-L6", "A client that knew a later epoch of a node does not talk to an old copy of it.",
        STORY + "test_rl6_an_old_copy_of_the_node_is_refused_by_who_knows_a_newer_one",
        "machines/link.py", "        if welcome.node == self.node and welcome.epoch < self.epoch:", "        if False:",
    ),
    Rule(
        "R-L6 other", "Another node ends every lease that a client holds.",
        STORY + "test_rl6_another_node_at_the_same_place_ends_every_held_lease",
        "machines/link.py", "        changed = self.node not in (b\"\", welcome.node)", "        changed = False",
    ),
    Rule(
        "R-L7", "A silent holder is sent its echo again, so that a vanished one is noticed.",
        LINKS + "test_a_silent_holder_is_sent_its_echo_again_until_the_send_fails_and_its_leases_follow_the_link",
        LEASING, "                    core.send(client.peer, Echo(client.beat, core.stopping, []))\n", "",
    ),
    Rule(
        "R-L8", "A stranger is answered at most once a second.",
        LINKS + "test_a_stranger_is_answered_at_most_once_a_second",
        NODE, "        if peer not in self._strangers and len(self._strangers) < STRANGERS_MAX:", "        if True:",
    ),
    Rule(
        "R-P1", "Exactly the next number of a stream is taken; what stands behind a refused one is dropped.",
        PUTS + "test_what_stands_behind_a_refused_batch_is_dropped_and_not_taken_for_later",
        PUBLISHING, "        elif command.first != stream.last + 1:", "        elif False:",
    ),
    Rule(
        "R-P1 base", "A base beyond the last number is believed: what is below it was refused.",
        PUTS + "test_a_base_beyond_the_last_number_is_believed_for_those_were_refused",
        "machines/session.py", "        self.last = max(self.last, base - 1)\n", "",
    ),
    Rule(
        "R-P1 repeat", "A repeat is answered with the original place, and stored once.",
        STORY + "test_rp1_a_lost_confirm_is_repeated_on_the_new_link_and_the_message_is_stored_once",
        PUBLISHING,
        "        if command.first + command.count - 1 <= stream.last:\n            self._repeat(client, queue, stream, command)",
        "        if command.first + command.count - 1 <= stream.last:\n            self._take(client, queue, stream, command)",
    ),
    Rule(
        "R-P2", "A new link sends again from the base, the first batch alone until it is answered.",
        STORY + "test_rp2_a_new_link_sends_again_from_the_base_in_order_the_first_alone",
        "machines/producer.py", "        self._sent, self._alone, self.retry_at = 0, bool(self.flights), at",
        "        self._sent, self.retry_at = 0, at",
    ),
    Rule(
        "R-P7", "What may be stored is not taken back from its stream to be put elsewhere.",
        "test_client_producer.py::test_what_is_in_doubt_is_not_taken_back",
        "machines/producer.py",
        "        if self._doubt:\n            return []\n        return self._drop()", "        return self._drop()",
    ),
    Rule(
        "R-P3", "A repeated confirm waits until the original record is durable.",
        PUTS + "test_a_repeated_confirm_waits_for_the_original_record",
        PUBLISHING, "        self._core.send(client.peer, confirm, after)", "        self._core.send(client.peer, confirm, 0)",
    ),
    Rule(
        "R-P4", "The stream is asked before the limits: a stored put is never answered FULL.",
        PUTS + "test_a_stored_put_whose_confirm_was_lost_is_not_answered_full",
        PUBLISHING, "        if command.first + command.count - 1 <= stream.last:\n",
        "        if not queue.has_room(1, 1):\n            self._refuse(client, command, stream, Code.FULL, 'full')\n"
        "        elif command.first + command.count - 1 <= stream.last:\n",
    ),
    Rule(
        "R-P5", "Records hold due times; replay reads no clock.",
        MEMORY + "test_a_delayed_message_that_was_leased_again_is_leased_after_a_restart_and_nothing_else",
        "machines/queue.py", "        while mask & batch.delayed:\n", "        while False:\n",
    ),
    Rule(
        "R-P6", "Streams are in every checkpoint.",
        PUTS + "test_streams_survive_in_the_checkpoint",
        "machines/memory.py", "            for number, stream in client.streams.items():\n                answers",
        "            for number, stream in ():\n                answers",
    ),
    Rule(
        "R-Q1", "A window is absolute: restating it gives nothing more.",
        LEASES + "test_a_window_is_absolute_and_restating_it_gives_nothing_more",
        "machines/session.py", "        return self.window - self.open - self.revoked", "        return self.window - self.revoked",
    ),
    Rule(
        "R-Q1 revoked", "Revoked messages that still run use up room.",
        LEASES + "test_revoked_messages_that_still_run_use_up_room",
        "machines/session.py", "        return self.window - self.open - self.revoked", "        return self.window - self.open",
    ),
    Rule(
        "R-Q1 unasked", "Messages that were taken from a client that does not know it yet use up room, too.",
        LEASES + "test_what_was_taken_from_a_client_that_does_not_know_yet_uses_up_room_too",
        LEASING, "            client.consumers[lease.queue].revoked += mask.bit_count()\n", "",
    ),
    Rule(
        "R-Q2", "A lease that its holder has seen and does not list goes back at once, uncounted.",
        LEASES + "test_a_seen_lease_that_is_not_listed_goes_back_at_once_without_an_attempt",
        LEASING, "                self.end(lease, lease.open, UNLISTED if lease.token <= command.seen else UNRECEIVED)",
        "                pass",
    ),
    Rule(
        "R-Q2 seen", "A lease that is on its way is not taken back.",
        LEASES + "test_a_lease_that_is_still_on_its_way_is_not_taken_back",
        LEASING, "            if lease.token in held or not (lease.token <= command.seen or lease.link != client.link):",
        "            if lease.token in held:",
    ),
    Rule(
        "R-Q2 link", "One granted on an older link goes back though it was never seen.",
        LEASES + "test_an_unlisted_lease_of_an_older_link_goes_back_though_it_was_never_seen",
        LEASING, "            if lease.token in held or not (lease.token <= command.seen or lease.link != client.link):",
        "            if lease.token in held or not lease.token <= command.seen:",
    ),
    Rule(
        "R-Q2 revoke", "What is listed and not valid is revoked in the echo of that READY.",
        LEASES + "test_a_listed_lease_that_is_over_is_revoked_in_the_echo_of_that_very_ready",
        LEASING, "                client.revoke.append(token)\n", "",
    ),
    Rule(
        "R-Q3", "A silent client gets no new lease.",
        LEASES + "test_a_silent_client_gets_no_new_lease_and_its_leases_run_to_their_deadline",
        LEASING, "        return bool(client.peer) and consumer.window > 0 and self._core.heard - client.last_ready <= PATIENCE",
        "        return bool(client.peer) and consumer.window > 0",
    ),
    Rule(
        "R-Q4", "A lost link brings the deadline forward to the last READY and grace.",
        LEASES + "test_a_lost_link_brings_the_deadline_forward_to_the_last_ready_and_grace",
        LEASING, "                lease.deadline = client.last_ready + grace\n", "",
    ),
    Rule(
        "R-Q4 gate", "A consumer starts nothing that the node may have given away.",
        STORY + "test_rq4_on_a_half_open_link_a_worker_starts_nothing_after_grace",
        "machines/holdings.py", "min(proven + MARGIN * self.grace, self.renewed + MARGIN * self.seconds, self.ends_at)",
        "min(self.renewed + MARGIN * self.seconds, self.ends_at)",
    ),
    Rule(
        "R-Q5", "After a restart a lease waits for its holder.",
        LEASES + "test_after_a_restart_a_lease_waits_for_its_holder_who_adopts_it",
        LEASING, "            lease.deadline = core.heard + policy.grace\n", "            lease.deadline = core.heard\n",
    ),
    Rule(
        "R-Q5 exact", "Only the client of a lease adopts or settles it.",
        LEASES + "test_an_orphan_is_adopted_by_its_own_client_only",
        "machines/settling.py", "        if lease.queue < 0 or lease.client != client.id or count < 1",
        "        if lease.queue < 0 or count < 1",
    ),
    Rule(
        "R-Q6", "Time in which the node did not listen expires nobody.",
        LEASES + "test_a_node_that_was_stopped_expires_nobody_when_it_wakes",
        "machines/core.py", "                self.heard += min(now - self.now, BEAT)", "                self.heard += now - self.now",
    ),
    Rule(
        "R-Q6 spare", "While there is more to read, those just heard are passed over.",
        LEASES + "test_when_more_waits_to_be_read_those_just_heard_are_spared_and_the_silent_are_not",
        NODE, "        self._leasing.tick({} if drained else self._turn)", "        self._leasing.tick({})",
    ),
    Rule(
        "R-Q7", "A lost lease of several messages counts no attempt: they become suspects.",
        LEASES + "test_the_neighbours_of_a_poison_message_are_never_counted",
        LEASING, "        counted = cause.counts and not (cause.only_single and lease.count > 1)", "        counted = cause.counts",
    ),
    Rule(
        "R-Q7 alone", "A suspect is leased by itself.",
        LEASES + "test_a_suspect_is_leased_by_itself_and_nothing_beside_it",
        LEASING, "        if client.alone_token or len", "        if len",
    ),
    Rule(
        "R-Q7 stray", "Nor is a suspect given to a client that still runs messages of a lease that is over.",
        LEASES + "test_a_suspect_is_not_given_to_a_client_that_still_runs_messages_of_a_lease_that_is_over",
        "machines/session.py", "        return self.stray > 0 or self.holds_any()", "        return self.holds_any()",
    ),
    Rule(
        "R-Q8", "Every end of a lease other than DONE is durable before the message is ready again.",
        LINKS + "test_a_returned_message_is_leased_only_when_its_return_is_durable",
        "machines/queue.py", "        self.waiting.append((position, self, Returned(lease.batch, mask, record.due)))",
        "        self.land(Returned(lease.batch, mask, record.due))",
    ),
    Rule(
        "R-Q9", "Returned messages go before fresh ones, lowest number first.",
        LEASES + "test_returned_messages_go_before_fresh_ones_lowest_number_first",
        "machines/queue.py", "        for qseq in list(self.returned):\n", "        for qseq in reversed(self.returned):\n",
    ),
    Rule(
        "R-A1", "DONE is answered when its record is durable.",
        SETTLING + "test_done_is_applied_at_once_and_answered_when_its_record_is_durable",
        "machines/settling.py", "Answer(ranges[start : start + ENTRIES_MAX]), self._core.last)",
        "Answer(ranges[start : start + ENTRIES_MAX]), 0)",
    ),
    Rule(
        "R-A2", "DONE needs a live token: a stale one settles nothing.",
        SETTLING + "test_a_done_after_expiry_is_stale_and_the_next_holder_decides",
        "machines/queue.py", "        lease.revoked |= mask\n", "",
    ),
    Rule(
        "R-A3", "A DONE that counted is not denied after a checkpoint and a restart.",
        SETTLING + "test_after_a_checkpoint_and_a_restart_a_done_that_counted_is_not_denied",
        "machines/memory.py", "        yield records.Granted(max(core.logged_token, self._leasing.newest_token))\n", "",
    ),
    Rule(
        "R-A3 kept", "What was revoked is remembered until READY lists it no more.",
        SETTLING + "test_a_done_behind_the_ready_that_forgot_its_token_is_stale_for_the_message_has_gone_back",
        LEASING, "lease.open, UNLISTED if lease.token <= command.seen else UNRECEIVED)",
        "lease.open, UNLISTED)\n                core.forget_lease(lease)",
    ),
    Rule(
        "R-A4", "A DONE without an answer is said again on the new link.",
        STORY + "test_ra4_an_ack_that_died_with_its_link_is_said_again_and_counts",
        "machines/link.py", "        self.holdings.resume()\n", "",
    ),
    Rule(
        "R-A5", "Dead-lettering is one record, and the body stays.",
        SETTLING + "test_the_last_failure_dead_letters_in_one_record_and_the_body_stays",
        "machines/parts.py", "        return self.fresh | self.back | self.delayed | self.leased | self.returning | self.dead",
        "        return self.fresh | self.back | self.delayed | self.leased | self.returning",
    ),
    Rule(
        "R-A7", "BYE gives back what is held, uncounted, and is answered when that is durable.",
        LINKS + "test_the_answer_to_bye_waits_until_the_returns_are_durable",
        NODE, "        core.send(client.peer, wire.Bye(), core.last)", "        core.send(client.peer, wire.Bye())",
    ),
    Rule(
        "R-A7 crossed", "A LEASE that crossed BYE is not run.",
        STORY + "test_ra7_a_lease_that_crossed_a_goodbye_is_not_run_and_goes_back_uncounted",
        NODE, "            self._leasing.end(lease, lease.open, STOPPED)\n", "            pass\n",
    ),
    Rule(
        "R-J3", "A checkpoint and the records after it give the machine that was.",
        MEMORY + "test_attempts_and_suspects_survive_a_checkpoint",
        "machines/checkpoint.py", "batch.dead, batch.suspect)\n        size", "batch.dead, 0)\n        size",
    ),
    Rule(
        "R-J4", "A body is released only when what settled its last message is durable.",
        SETTLING + "test_a_body_is_released_when_all_of_its_parcel_is_durably_settled_and_not_before",
        "machines/queue.py", "            self.bytes -= batch.size\n            self.waiting.append((position, self, batch.position))",
        "            self.bytes -= batch.size\n            self.waiting.append((0, self, batch.position))",
    ),
    Rule(
        "R-J5", "A copy moves a message and never adds one.",
        MEMORY + "test_a_message_settled_before_its_copy_does_not_come_back",
        "machines/queue.py", "            self.waiting.append((position, self, position))  # settled meanwhile: nobody needs the copy",
        "            self.promise(record.count, 1)\n            self.land(Row(record.qseq, record.count, position, 1, 0.0))",
    ),
    Rule(
        "R-C1", "A number that comes again is not dispatched again.",
        CALLS + "test_a_number_that_comes_again_is_not_dispatched_again",
        AT_CALLS, "        if known is not None:\n", "        if False:\n",
    ),
    Rule(
        "R-C1 cancelled", "A job is kept until all that was told of it has come, also if the rest of it is cancelled.",
        CALLS + "test_a_number_whose_answer_the_caller_lacks_is_not_dispatched_again_when_another_of_its_batch_is_cancelled",
        "machines/callers.py", "        job.serial = max(job.serial, self.serial + 1)", "        pass",
    ),
    Rule(
        "R-C2", "After a restart a call without a key, sent before, is refused as perhaps executed.",
        CALLS + "test_after_a_restart_a_call_without_a_key_that_was_sent_before_is_refused_as_perhaps_executed",
        AT_CALLS, "        if command.epoch not in (0, core.identity.epoch) and not command.key:", "        if False:",
    ),
    Rule(
        "R-C2 caller", "A caller gives up what it sent to another epoch without a key.",
        CALLER + "test_after_a_restart_what_was_sent_without_a_key_may_have_been_executed_and_with_one_is_made_again",
        "machines/calling.py", "            elif flight.epoch and (restarted or away):", "            elif flight.epoch and away:",
    ),
    Rule(
        "R-C2 doubt", "A key that an earlier epoch knew is never said to be unexecuted.",
        CALLER + "test_a_key_that_an_earlier_epoch_knew_is_never_said_to_be_unexecuted",
        "machines/calling.py", "        if flight.doubt and outcome is not Outcome.MAYBE_EXECUTED:", "        if False:",
    ),
    Rule(
        "R-C3", "A call whose lease was lost goes to nobody else without a key.",
        CALL_STORY + "test_rc3_a_worker_that_dies_during_a_call_ends_it_as_perhaps_executed_within_grace",
        "machines/answering.py", "        if calls and (unstarted or (job.key and job.tried < job.attempts)):", "        if calls:",
    ),
    Rule(
        "R-C3 unstarted", "What came back unstarted goes to another worker.",
        CALLS + "test_what_came_back_unstarted_goes_to_another_worker_as_the_first_attempt",
        "machines/answering.py", "        unstarted = cause in (UNSTARTED, UNSENT, UNRECEIVED)",
        "        unstarted = cause in (UNSENT, UNRECEIVED)",
    ),
    Rule(
        "R-C4", "An answered key is never dispatched again.",
        KEYS + "test_an_answered_key_is_never_dispatched_again_and_its_answer_told_again",
        AT_CALLS, "            self.keys.keep(job, status, parcel, self._core.now)\n", "            self.keys.drop(job)\n",
    ),
    Rule(
        "R-C4 tried", "A key that waits for its second worker may have been executed when its deadline comes.",
        KEYS + "test_a_key_that_waits_for_its_second_worker_may_have_been_executed_when_its_deadline_comes",
        AT_CALLS, "        return job.open if run.pending and run.untouched else 0", "        return job.open if run.pending else 0",
    ),
    Rule(
        "R-C5", "No call is started after its deadline.",
        CALL_STORY + "test_rc5_a_worker_that_wakes_up_shortly_before_the_deadline_does_not_start_after_it",
        "machines/holdings.py", "self.renewed + MARGIN * self.seconds, self.ends_at)", "self.renewed + MARGIN * self.seconds)",
    ),
    Rule(
        "R-C5 beat", "A worker counts the deadline from the beat that the LEASE names, so lying in a buffer moves nothing.",
        REQUESTS + "test_the_deadline_counts_from_the_beat_so_a_slow_delivery_moves_nothing",
        "machines/link.py", "MARGIN * (asked + lease.terms.seconds - self._now)", "lease.terms.seconds",
    ),
    Rule(
        "R-C5 verdict", "At its deadline a call that a worker has may be executed; one that no worker got was not.",
        CALLS + "test_a_call_that_a_worker_has_at_its_deadline_may_be_executed_and_the_worker_is_told_that_nobody_waits",
        AT_CALLS, "        self._conclude(job, begun, Status.MAYBE_EXECUTED,", "        self._conclude(job, begun, Status.UNDISPATCHED,",
    ),
    Rule(
        "R-C6", "A REPLY that the caller lacks is told again on its new link, under its number.",
        CALL_STORY + "test_rc6_a_reply_that_died_with_its_link_is_told_again_under_its_number",
        AT_CALLS, "            for told in caller.kept:\n", "            for told in ():\n",
    ),
    Rule(
        "R-C6 order", "A caller takes the next REPLY and no other.",
        CALLER + "test_a_reply_that_comes_twice_or_out_of_order_changes_nothing",
        "machines/calling.py", "        if reply.serial != self.replied + 1:", "        if False:",
    ),
    Rule(
        "R-C6 kept", "One long call keeps no answers of others.",
        LIMITS + "test_one_long_call_keeps_no_answers_of_others",
        AT_CALLS, "        caller.arrived(command.replied)\n        known", "        known",
    ),
    Rule(
        "R-T1", "A piece of a snapshot is cut from the present state, and only for a cursor that is there, too.",
        TOPIC_STORY + "test_rt1_who_joins_during_updates_has_the_same_state_as_who_was_there",
        FANOUT, "            elif subscriber.place < history.end:",
        "            elif subscriber.place < history.end and not subscriber.left:",
    ),
    Rule(
        "R-T1 cut", "A snapshot that its link did not finish is no base: it is told anew.",
        TOPIC_STORY + "test_rt1_a_snapshot_that_its_link_did_not_finish_is_told_anew_and_nothing_of_the_first_is_left",
        FOLLOWING, "NO_POSITION if self.based and self.scope == Scope.ALL else (self.epoch, self.seq)", "self.epoch, self.seq",
    ),
    Rule(
        "R-T1 gone", "What a new snapshot does not name is deleted, by events.",
        TOPIC_STORY + "test_rt3_a_reader_that_lived_through_it_forgets_what_was_lost_by_events",
        FOLLOWING, "            gone, self.stale = list(self.stale), {}", "            gone, self.stale = list[str](), {}",
    ),
    Rule(
        "R-T1 fresh", "A prefix that is added comes whole, also before the first answer.",
        TOPIC_STORY + "test_a_prefix_that_is_added_before_the_node_has_answered_comes_whole_all_the_same",
        FANOUT, "            self._begin(subscriber, topic.head, fresh)", "            self._begin(subscriber, topic.head, ())",
    ),
    Rule(
        "R-T1 kept", "The log keeps what gives the state its values, below the history.",
        TOPIC_STORY + "test_the_state_is_swept_into_the_log_and_stands_there_after_a_restart",
        "machines/keeping.py", "        if not self._topic.policy.keep_values or last <= self.swept:", "        if True:",
    ),
    Rule(
        "R-T1 swept", "A sweep takes away what it has told anew, and no piece of itself.",
        TOPICS + "test_the_state_is_the_fold_of_the_log_whatever_is_trimmed_swept_moved_or_crashes",
        "machines/keeping.py", "            if body.seq < record.seq or (body.seq == record.seq and body.kind == UPDATES):",
        "            if body.seq <= record.seq:",
    ),
    Rule(
        "R-T1 ttl", "A value whose ttl runs out is deleted by an update.",
        TOPIC_STORY + "test_a_ttl_that_runs_out_while_the_node_is_down_ends_when_it_is_back",
        TOPIC, "                if held_till[1] < inf:\n", "                if False:\n",
    ),
    Rule(
        "R-T1 renewed", "A value that an update on its way renews does not end by the old one's ttl.",
        TOPIC_STORY + "test_a_value_that_is_renewed_while_the_disk_hangs_does_not_end_with_the_old_one",
        AT_TOPICS, "                others = self._on_their_way(topic)\n", "                others = set[str]()\n",
    ),
    Rule(
        "R-T1 ended", "A value that has ended is told to nobody, though its deletion waits for the disk.",
        TOPIC_STORY + "test_a_value_whose_end_waits_for_the_disk_is_told_to_nobody",
        TOPIC, "        if tuple in set(map(type, values)):", "        if self.ends:",
    ),
    Rule(
        "R-T2", "A full window stops the cursor.",
        TOPIC_STORY + "test_rt2_a_slow_reader_that_the_floor_overtakes_is_told_what_it_misses_and_slows_nobody",
        FANOUT, "        return self.sent - self.taken < self.window", "        return True",
    ),
    Rule(
        "R-T2 gap", "A cursor that the floor has passed is told what it misses, and gets a snapshot.",
        FOLLOWERS + "test_who_falls_behind_the_history_is_told_and_gets_a_new_snapshot_with_deletions",
        FANOUT, "            if subscriber.cursor + 1 < history.floor:", "            if False:",
    ),
    Rule(
        "R-T2 again", "Who misses more because its snapshot was cut is told that, too.",
        TOPIC_STORY + "test_rt2_who_missed_updates_and_lost_its_new_snapshot_is_told_that_it_misses_more",
        FOLLOWING, "Scope.NONE, (), Start.POSITION", "Scope.NONE, (), self.start",
    ),
    Rule(
        "R-T2 link", "What was to be taken when a link broke is no part of the next one's window.",
        TOPIC_STORY + "test_what_was_still_to_be_taken_when_the_link_broke_does_not_close_the_window_of_the_next",
        FOLLOWING, "        self.taken -= self.received ", "        self.taken = 0 ",
    ),
    Rule(
        "R-T3", "A position in a tail that was lost means nothing, even when its number is given again.",
        TOPIC_STORY + "test_rt3_a_position_in_a_tail_that_was_lost_is_a_gap_even_when_its_number_is_given_again",
        TOPIC, "        return all(seq <= last for began, last in self.epochs if began > epoch)", "        return True",
    ),
    Rule(
        "R-T4", "Nobody is told of an update before it is durable.",
        TOPIC_STORY + "test_rt4_nobody_is_told_before_the_disk_has_it",
        AT_TOPICS, "        core.waiting.append((position, topic, topic.landing(record, position)))\n",
        "        self.land(topic.number, topic.landing(record, position))\n",
    ),
    Rule(
        "R-T4 order", "Updates count in the order of their numbers, whatever they wait for.",
        TOPIC_STORY + "test_updates_behind_some_that_wait_for_the_disk_wait_too_though_the_topic_is_in_memory_by_now",
        AT_TOPICS, ' and topic.history.next_seq == record.qseq:', ":",
    ),
    Rule(
        "R-T4 prev", "An update that does not follow what a subscriber knows is not applied.",
        FOLLOWERS + "test_an_update_that_does_not_follow_what_we_know_is_not_applied_but_asked_for_again",
        FOLLOWING, "        if not self.based or live.prev != self.seq:", "        if not self.based:",
    ),
    Rule(
        "R-T4 idle", "A subscriber whom nothing concerns learns how far it is.",
        FOLLOWERS + "test_prefixes_come_and_go",
        FANOUT, "subscriber.round is None:\n            self._tell_at(subscriber)", "subscriber.round is None:\n            pass",
    ),
    Rule(
        "R-T4 memory", "What landed in memory is not forgotten before it stands in the log.",
        TOPIC_STORY + "test_many_updates_in_memory_in_one_turn_are_told_though_the_log_has_none_of_them_yet",
        TOPIC, "        self._remember(row.position, updates)\n",
        "        self._remember(row.position, updates)\n        self.forget_old()\n",
    ),
    Rule(
        "R-T4 bound", "An update that is bound to a queue is a message there, wherever the log breaks.",
        TOPIC_STORY + "test_an_update_that_is_bound_to_a_queue_is_a_message_there_wherever_the_log_breaks",
        AT_TOPICS, "        self.binding.begin()\n", "",
    ),
    Rule(
        "R-T4 confirm", "A confirm from memory overtakes none of its stream that waits.",
        TOPICS + "test_a_confirm_from_memory_does_not_overtake_one_of_its_stream_that_waits",
        PUBLISHING, "            after = max(after, stream.answers[-1].after)", "            pass",
    ),
    Rule(
        "R-T4 durable", "A confirm that says durable waits for that, also if it is a repetition of one from memory.",
        TOPICS + "test_a_confirm_that_is_repeated_as_durable_waits_for_the_disk_though_it_was_given_in_memory",
        PUBLISHING, "        after = answer.after or (self._core.last if", "        after = answer.after or (0 if",
    ),
    Rule(
        "R-T5", "A named position never moves back.",
        FOLLOWERS + "test_a_name_keeps_the_position_and_belongs_to_the_newest",
        FANOUT, " or seq > kept[1] else", " or True else",
    ),
    Rule(
        "R-T5 newest", "A name belongs to the newest subscription that uses it.",
        TOPIC_STORY + "test_rt5_a_name_belongs_to_the_newest_and_the_older_one_moves_it_no_more",
        FANOUT, "        if subscriber is None or self._named.get(subscriber.name) is not subscriber or not",
        "        if subscriber is None or not",
    ),
    Rule(
        "R-T5 whole", "An update between the pieces of a snapshot is no position.",
        FOLLOWERS + "test_an_update_between_pieces_of_a_snapshot_is_no_position_to_keep",
        FOLLOWING, "updates.plain, False, self.loaded)", "updates.plain, False, True)",
    ),
    Rule(
        "R-T5 link", "A position that is to be kept is said again on each link.",
        FOLLOWERS + "test_a_kept_position_is_said_again_on_each_link",
        FOLLOWING, "                sends.append(wire.Pos(self._number, *subscription.kept))\n", "                pass\n",
    ),
    Rule(
        "R-L9", "A command of another user on a link is that of a stranger.",
        RIGHTS + "test_a_command_of_another_user_on_a_link_is_as_one_without_hello",
        NODE, "        if client is not None and (account := client.account).user != user:",
        "        if client is not None and (account := client.account).user is None:",
    ),
    Rule(
        "R-L9 id", "Nobody gets a client of another user by saying its id.",
        RIGHTS + "test_a_client_id_of_another_user_is_refused_and_its_owner_is_not_disturbed",
        NODE, "        if known is not None and known.account.user not in (None, user):", "        if False:",
    ),
    Rule(
        "R-L9 gone", "A user that is no more among the users has no link any more.",
        RIGHTS + "test_what_a_dismissed_user_holds_goes_back_as_if_its_link_were_lost",
        NODE, "                self._reject(client.peer, \"no-rights\", client.account.user or \"\")", "                pass",
    ),
    Rule(
        "R-U1", "No command of a user without rights does anything.",
        RIGHTS + "test_a_user_without_rights_gets_nothing_through_whatever_it_says",
        NODE, "            if account.free or not (why := why_not(account, command)):", "            why = \"\"\n            if not why:",
    ),
    Rule(
        "R-U1 default", "What is in no table is forbidden.",
        RIGHTS + "test_what_is_in_no_table_is_forbidden",
        "machines/permits.py", "    if needs is None:\n", "    if needs is None:\n        return \"\"\n    if needs is None:\n",
    ),
    Rule(
        "R-U1 definite", "A put that is stored is confirmed again, whatever its user may do now.",
        RIGHTS + "test_a_put_that_is_stored_is_confirmed_again_though_its_user_may_put_no_more_there",
        PUBLISHING, "self._known(client, command.queue) if forbidden", "(None, None) if forbidden",
    ),
    Rule(
        "R-U1 back", "Leases that a user's rights cover no more are taken back.",
        RIGHTS + "test_when_a_right_is_withdrawn_windows_close_and_leases_go_back_uncounted_and_settle_nothing",
        LEASING, "                    self.end(lease, lease.open, WITHDRAWN)\n", "                    pass\n",
    ),
    Rule(
        "R-U2", "A window that a user may not have is refused by name, and the others count.",
        RIGHTS + "test_a_forbidden_window_is_refused_by_name_and_the_others_of_that_ready_count",
        LEASING, "        code, why = Code.FORBIDDEN, permits.why_no_window(account, name)", "        code, why = Code.FORBIDDEN, \"\"",
    ),
    Rule(
        "R-U3", "All clients of a user together have no more in flight than it may.",
        QUOTAS + "test_no_more_messages_are_leased_to_all_clients_of_a_user_than_it_may_have_in_flight",
        LEASING, "        if account.limits.in_flight < inf and (room := min(room, int(account.room))) <= 0:", "        if False:",
    ),
    Rule(
        "R-U3 room", "What ends in one queue makes room in the user's others.",
        QUOTAS + "test_no_more_messages_are_leased_to_all_clients_of_a_user_than_it_may_have_in_flight",
        "machines/core.py", "        was_full = account.in_flight >= account.limits.in_flight", "        was_full = False",
    ),
    Rule(
        "R-U3 calls", "Calls that are over the limit are refused, and those before them are made.",
        QUOTAS + "test_calls_whose_refusal_was_lost_with_its_link_are_not_forgotten",
        AT_CALLS, "            if over < command.count:", "            if False:",
    ),
    Rule(
        "R-U3 owner", "Whose queues are is known after a restart.",
        QUOTAS + "test_whose_queues_are_is_known_after_a_restart",
        "machines/checkpoint.py", "queue.paused, False, queue.owner)", "queue.paused, False)",
    ),
    Rule(
        "R-C4 user", "A key belongs to its user.",
        RIGHTS + "test_an_idempotency_key_is_its_users_own",
        "machines/keys.py", "    return job.account.user, job", "    return \"\", job",
    ),
]  # fmt: skip
