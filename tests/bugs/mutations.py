"""For each of the thirty bugs, the lines that keep it away, and each made wrong.

Owns the data alone; `test_mutations` puts each into a copy of the program and demands
that the test named here fails.  A line is given without its indentation and stands once
in its file, so that a change of the program that loses it is noticed.
"""

from __future__ import annotations

from .thirty import Mutation

SERVER = "llambo9p/p9/server.py"
ON_FID = "llambo9p/p9/on_fid.py"
FID = "llambo9p/p9/fid.py"
WIRE = "llambo9p/p9/wire.py"
FRAMING = "llambo9p/p9/framing.py"
DOTL = "llambo9p/p9/dotl.py"
STREAM = "llambo9p/fs/stream.py"
TREE = "llambo9p/fs/tree.py"
CTL = "llambo9p/fs/ctl.py"
FILES = "llambo9p/conversation/files.py"
WRITTEN = "llambo9p/conversation/written.py"
CONVERSATION = "llambo9p/conversation/conversation.py"
TURN = "llambo9p/conversation/turn.py"
CLONE = "llambo9p/conversation/clone.py"
NET_SERVER = "llambo9p/net/server.py"
TURNS = "llambo9p/net/turns.py"
CLIENT = "llambo9p/net/client.py"
REMOTE = "llambo9p/cluster/remote.py"
DISPATCH = "llambo9p/cluster/dispatch.py"
NAMESPACE = "llambo9p/cluster/namespace.py"
HOST = "llambo9p/worker/host.py"
TEXT = "llambo9p/engine/text.py"
THREAD = "llambo9p/engine/thread.py"

MUTATIONS = [
    Mutation(
        1, "each Twrite is a prompt", WRITTEN,
        "self._written.extend(data)",
        "self._text.submit(lambda: data)",
        "tests/conversation/test_prompt.py::test_1_a_prompt_longer_than_msize_is_one_request",
    ),
    Mutation(
        2, "each Twrite is decoded by itself", WRITTEN,
        "self._data += data",
        'self._data += data.decode(errors="replace").encode()',
        "tests/conversation/test_prompt.py::test_2_a_character_may_be_split_between_twrites",
    ),
    Mutation(
        2, "each token is decoded by itself", TEXT,
        "text = self._decoder.decode(piece)",
        'text = piece.decode(errors="replace")',
        "tests/conversation/test_out.py"
        "::test_2_characters_reach_out_whole_and_small_counts_lose_nothing",
    ),
    Mutation(
        3, "an open of clone makes two conversations", CLONE,
        "return OpenClone(self.clones.new())",
        "return [OpenClone(self.clones.new()) for _ in range(2)][0]",
        "tests/conversation/test_clone.py::test_3_cat_clone_makes_exactly_one_conversation",
    ),
    Mutation(
        4, "the buffer belongs to the conversation and not to the fid", WRITTEN,
        "self._written = Written(text.name, text.limit, conversation)",
        "self._written = vars(conversation).setdefault("
        '"w", Written(text.name, text.limit, conversation))',
        "tests/conversation/test_prompt.py::test_4_prompts_of_two_fids_do_not_mix",
    ),
    Mutation(
        4, "a one-shot query is asked with the history", CONVERSATION,
        "self._give_to_engine(turn, history=False)",
        "self._give_to_engine(turn, history=True)",
        "tests/conversation/test_data.py"
        "::test_4_queries_use_the_settings_and_the_system_prompt_but_not_the_history",
    ),
    Mutation(
        5, "what is there is sliced by the offset again", STREAM,
        "return bytes(self._data[offset : offset + count])",
        "return bytes(self._data[offset:])[offset : offset + count]",
        "tests/p9/test_read.py::test_5_a_blocking_read_gives_what_is_there_and_loses_nothing",
    ),
    Mutation(
        5, "what does not fit count is dropped", FILES,
        "self._cursor += len(data)",
        "self._cursor = len(turn.stream)",
        "tests/conversation/test_data.py::test_5_reads_ignore_offsets_whichever_the_client_sends",
    ),
    Mutation(
        6, "one reader is woken", STREAM,
        "for waiter, offset in list(self._waiters.items()):",
        "for waiter, offset in list(self._waiters.items())[:1]:",
        "tests/p9/test_read.py::test_6_every_blocked_reader_is_woken",
    ),
    Mutation(
        7, "the end is told to those who wait already, and to no later read", STREAM,
        "self.finished = True",
        "self.finished = bool(self._waiters)",
        "tests/conversation/test_out.py"
        "::test_7_a_late_reader_gets_all_and_a_read_after_the_end_is_eof",
    ),
    Mutation(
        7, "there is no answer for who opens out after its end", FILES,
        "newest = self._conversation.newest",
        "newest = self._conversation.running",
        "tests/conversation/test_out.py"
        "::test_7_a_late_reader_gets_all_and_a_read_after_the_end_is_eof",
    ),
    Mutation(
        8, "a stream that nobody reads holds so much and no more", STREAM,
        "self._data += data",
        'self._data += data if self._waiters or len(self._data) < 1000 else b""',
        "tests/conversation/test_out.py"
        "::test_8_an_answer_that_nobody_reads_is_generated_to_its_end",
    ),
    Mutation(
        9, "a read that waits holds back its connection", SERVER,
        "frames, due, relays, clock = self._frames, self._due, self.relays, self._clock",
        "frames, due, relays, clock = self._frames if not self.requests else deque(), self._due, "
        "self.relays, self._clock",
        "tests/conversation/test_out.py::test_9_a_blocked_read_stalls_nobody",
    ),
    Mutation(
        9, "a user with many connections is served to the end before the others", TURNS,
        "self._lines[whose] = line",
        "self._lines = OrderedDict({whose: line, **self._lines})",
        "tests/net/test_turns.py"
        "::test_9_users_take_turns_and_a_user_s_connections_come_in_their_order",
    ),
    Mutation(
        10, "Tflush waits for the read that it flushes", SERVER,
        "self._cancel(old)",
        "pass",
        "tests/p9/test_flush.py::test_10_flush_of_a_parked_read_is_answered_and_the_read_is_not",
    ),
    Mutation(
        10, "Rflush comes at once and the stale answer after it", SERVER,
        "if old is None:",
        "if True:",
        "tests/p9/test_flush.py::test_10_flush_of_a_parked_read_is_answered_and_the_read_is_not",
    ),
    Mutation(
        11, "a clunk leaves the read that is pending on its fid", SERVER,
        "for request in [r for r in self.requests.values() if r.fid is fid]:",
        "for request in ():",
        "tests/p9/test_open_and_clunk.py"
        "::test_11_clunk_interrupts_the_read_that_is_pending_on_the_fid",
    ),
    Mutation(
        11, "a lost connection leaves its reads pending", SERVER,
        "for request in requests:",
        "for request in ():",
        "tests/p9/test_open_and_clunk.py"
        "::test_11_25_a_lost_connection_drops_every_fid_once_and_submits_nothing",
    ),
    Mutation(
        12, "one table of fids for all connections", SERVER,
        "self.fids = FidTable(self.limits.fids)",
        "self.fids = self._CONNECTION.setdefault(-1, FidTable(self.limits.fids))",
        "tests/p9/test_connection.py::test_12_fids_belong_to_one_connection",
    ),
    Mutation(
        13, "a walk that stops half-way gives the file it stopped at", TREE,
        "return Walk(qids, None, NotFound())",
        "return Walk(qids, here if qids else None, NotFound())",
        "tests/p9/test_walk.py::test_13_partial_walk_leaves_newfid_unused",
    ),
    Mutation(
        14, "an entry is begun wherever there is room", FID,
        "if room < 0:",
        "if room + len(entries[at]) <= 0:",
        "tests/p9/test_read.py::test_14_entries_are_never_split",
    ),
    Mutation(
        14, "the rest of Linux's count is an error", FID,
        "if count == self._unfilled and self._next < len(self._entries):",
        "if count < 0:",
        "tests/p9/test_read.py"
        "::test_14_linux_is_told_that_nothing_fits_into_the_rest_of_its_count",
    ),
    Mutation(
        14, "a directory is not rewound", ON_FID,
        "if msg.offset != 0:",
        "if msg.offset != 0 or fid.cursor is not None:",
        "tests/p9/test_read.py::test_14_a_directory_is_read_again_from_0_and_from_nowhere_else",
    ),
    Mutation(
        14, "a listing ends at 1,000", TREE,
        "self._entries = Listing(stat_now(child) for child in children.values())",
        "self._entries = Listing(stat_now(child) for child in list(children.values())[:1000])",
        "tests/p9/test_read.py::test_14_more_than_a_thousand_entries",
    ),
    Mutation(
        14, "a directory is listed anew at each read", ON_FID,
        "if msg.offset != 0:",
        'if msg.offset != 0 and not setattr(fid.cursor, "_entries", '
        "packed(handle.readdir(), conn.dialect.pack_dirs)):",
        "tests/p9/test_read.py"
        "::test_14_a_directory_that_changes_is_read_as_it_was_at_offset_0",
    ),
    Mutation(
        14, "9P2000.L lists a directory anew at each Treaddir", DOTL,
        "if msg.offset and fid.entries is not None:",
        "if False:",
        "tests/p9/test_dialects.py"
        "::test_14_l_a_listing_has_stable_offsets_while_the_directory_changes",
    ),
    Mutation(
        15, "each walk numbers the file again", TREE,
        "qids.append(child.qid)",
        "qids.append(self.tree.qid(child.qid.type))",
        "tests/p9/test_walk.py::test_15_a_file_has_the_same_qid_at_each_walk",
    ),
    Mutation(
        16, "qids of a mounted tree stay as they are", REMOTE,
        "self._prefix = tree.mount_prefix(_REMOTE_BITS)",
        "self._prefix = 0",
        "tests/cluster/test_pass_through.py::test_16_equal_qids_of_two_servers_stay_different",
    ),
    Mutation(
        17, "a lost connection leaves its calls waiting", CLIENT,
        "for whose in self._conn.lost():",
        "for whose in ():",
        "tests/net/test_client.py::test_17_every_pending_call_fails_when_the_connection_is_lost",
    ),
    Mutation(
        18, "each line runs twice", CTL,
        "actions = self.parse(decode(data))",
        "actions = self.parse(decode(data)) * 2",
        "tests/p9/test_read.py::test_18_a_bad_ctl_write_fails_and_nothing_of_it_is_done",
    ),
    Mutation(
        18, "a bad line is passed over", CTL,
        'raise InvalidArgument(f"usage: {command.name} {command.usage}".rstrip())',
        "continue",
        "tests/p9/test_read.py::test_18_a_bad_ctl_write_fails_and_nothing_of_it_is_done",
    ),
    Mutation(
        18, "good lines before a bad one act", CTL,
        "actions.append(command.validate(args))",
        "command.validate(args)()",
        "tests/p9/test_read.py::test_18_a_bad_ctl_write_fails_and_nothing_of_it_is_done",
    ),
    Mutation(
        19, "count is believed", ON_FID,
        "count = min(msg.count, conn.msize - c.READHDRSZ)",
        "count = msg.count",
        "tests/p9/test_read.py::test_19_a_count_beyond_msize_is_clamped_to_what_a_reply_holds",
    ),
    Mutation(
        19, "any msize is big enough", SERVER,
        "if msg.msize < self.limits.min_msize:",
        "if False:",
        "tests/p9/test_connection.py::test_19_msize_too_small_for_any_reply_is_refused",
    ),
    Mutation(
        19, "msize is what the client wants", SERVER,
        "msize = min(msg.msize, self.limits.msize)",
        "msize = msg.msize",
        "tests/p9/test_connection.py::test_19_msize_of_4_GB_is_lowered_to_ours",
    ),
    Mutation(
        20, "half a frame at the end is lost", FRAMING,
        'self.rest = data[at:] if at < end else b""',
        'self.rest = b""',
        "tests/p9/test_framing.py::test_20_fed_byte_by_byte",
    ),
    Mutation(
        20, "what follows a frame in its segment is lost", FRAMING,
        "at = after",
        "at = end",
        "tests/p9/test_framing.py::test_20_fed_whole",
    ),
    Mutation(
        20, "a frame may be shorter than its header", FRAMING,
        "if not HEADER <= size <= msize:",
        "if not 1 <= size <= self.msize:",
        "tests/p9/test_framing.py::test_20_a_size_that_no_frame_has_ends_the_connection",
    ),
    Mutation(
        20, "a string may be longer than its frame", WIRE,
        "if len(raw) != n:",
        "if False:",
        "tests/p9/test_malformed.py::test_20_each_violation_is_named",
    ),
    Mutation(
        20, "NUL is let through", WIRE,
        'if b"\\0" in raw:',
        "if False:",
        "tests/p9/test_malformed.py::test_20_each_violation_is_named",
    ),
    Mutation(
        20, "invalid UTF-8 is let through", WIRE,
        "return raw.decode(), end",
        'return raw.decode(errors="replace"), end',
        "tests/p9/test_malformed.py::test_20_each_violation_is_named",
    ),
    Mutation(
        21, "the reason of a failure is text of the answer", TURN,
        "stream.fail(error)",
        "stream.append(str(error).encode()) or stream.finish()",
        "tests/conversation/test_out.py"
        "::test_21_an_error_of_the_engine_fails_the_read_and_is_no_answer",
    ),
    Mutation(
        21, "a failed answer just ends", STREAM,
        "self._error = error",
        "self._error = None",
        "tests/p9/test_read.py"
        "::test_21_a_failure_is_an_error_of_the_blocked_read_after_all_bytes",
    ),
    Mutation(
        22, "the first user's tree is everybody's", NAMESPACE,
        "root = self._roots.get(user.name)",
        "root = next(iter(self._roots.values()), None)",
        "tests/cluster/test_users.py::test_22_a_cloned_conversation_is_found_by_nobody_else",
    ),
    Mutation(
        22, "a host's first user's tree is everybody's", HOST,
        "if user.name in self._roots:",
        "for user, _ in self._roots.values():",
        "tests/cluster/test_users.py::test_22_a_cloned_conversation_is_found_by_nobody_else",
    ),
    Mutation(
        23, "the orchestrator gives an answer a minute", DISPATCH,
        "usage = await self._ask(asked, worker)",
        "usage = await asyncio.wait_for(self._ask(asked, worker), 60)",
        "tests/cluster/test_trouble.py::test_23_a_prefill_that_takes_minutes_is_no_lost_worker",
    ),
    Mutation(
        23, "the server gives a read a minute", NET_SERVER,
        "request.cancel = awaitable.cancel",
        "request.cancel = awaitable.cancel; self._loop.call_later(60, awaitable.cancel)",
        "tests/cluster/test_trouble.py::test_23_a_prefill_that_takes_minutes_is_no_lost_worker",
    ),
    Mutation(
        24, "cancel stops what came first", THREAD,
        "self._mailbox.put(_Cancel(request) if since is None else _Withdraw(request, since))",
        "self._mailbox.put(_Cancel(next(iter(self._live))))",
        "tests/conversation/test_ctl.py::test_24_cancel_of_a_queued_request_leaves_the_running_one",
    ),
    Mutation(
        25, "a lost connection leaves its fids open", SERVER,
        "fid.handle.drop()",
        "pass",
        "tests/conversation/test_data.py::test_25_a_lost_connection_stops_the_answer",
    ),
    Mutation(
        25, "a conversation outlives its last fid", TREE,
        "if self.count == 0:",
        "if False:",
        "tests/conversation/test_clone.py::test_25_a_lost_connection_ends_its_conversations_only",
    ),
    Mutation(
        26, "start does not wait for the model", THREAD,
        "await loaded",
        "loaded.add_done_callback(lambda loaded: loaded.exception())",
        "tests/engine/test_thread.py::test_26_start_waits_for_the_model_and_fails_with_the_reason",
    ),
    Mutation(
        27, "a tag in use is taken again", SERVER,
        "if msg.tag in self.requests:",
        "if False:",
        "tests/p9/test_connection.py::test_27_a_tag_in_use_is_refused_and_its_request_left_alone",
    ),
    Mutation(
        28, "a clunked fid is not free", SERVER,
        "del self.fids[fid.fid]",
        "pass",
        "tests/p9/test_open_and_clunk.py::test_28_a_fid_clunked_is_free_for_the_next_message",
    ),
    Mutation(
        28, "our client gives the number of a fid away before Rclunk", CLIENT,
        "return self._end_fid(fid, m.Tclunk(0, fid), m.Rclunk)",
        "return self._free_fids.append(fid) or self._end_fid(fid, m.Tclunk(0, fid), m.Rclunk)",
        "tests/net/test_client.py::test_28_a_number_is_used_again_only_when_its_clunk_is_answered",
    ),
    Mutation(
        29, "`..` leaves the tree that was attached", ON_FID,
        "names, depth, at_root = confine(msg.wname, fid.depth)",
        "names, depth, at_root = msg.wname, 0, []",
        "tests/p9/test_walk.py::test_29_dotdot_cannot_leave_the_tree_of_the_attach",
    ),
    Mutation(
        29, "a file is asked for a path", ON_FID,
        'if any(not name or "/" in name for name in msg.wname):',
        "if False:",
        "tests/p9/test_read.py::test_29_no_file_is_asked_for_a_path",
    ),
    Mutation(
        30, "replies pile up for a client that does not take them", SERVER,
        "if not frames or self._unsent >= most:",
        "if not frames:",
        "tests/p9/test_read.py::test_30_messages_wait_while_their_replies_are_not_taken",
    ),
    Mutation(
        30, "a client that reads nothing is read from", NET_SERVER,
        "self._paused = True",
        "return",
        "tests/net/test_server.py"
        "::test_30_a_client_that_never_reads_is_not_read_from_and_holds_little",
    ),
    Mutation(
        30, "more than a hundred connections are too many", NET_SERVER,
        "if len(self.connections) - len(self.refused) > self.limits.connections:",
        "if len(self.connections) > 99:",
        "tests/net/test_server.py"
        "::test_30_a_thousand_idle_connections_are_served_beside_a_busy_one",
    ),
]
