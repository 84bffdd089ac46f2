"""Guards of transactions and connections."""

from tests.guards.guard import Guard

STORE = "engine/store"
SUBMIT = "tests/operations/test_submits.py"
DATABASE = "tests/store/test_database.py"

GUARDS = [
    Guard(
        "BEGIN IMMEDIATE",
        "a write after a read would fail whenever another commit came between",
        f"{STORE}/dialects/sqlite.py",
        '"BEGIN" if read_only else "BEGIN IMMEDIATE"',
        '"BEGIN"',
        f"{DATABASE}::test_a_transaction_writes_alone_from_its_beginning",
    ),
    Guard(
        "synchronous=FULL on every connection",
        "a power cut would lose acknowledged work",
        f"{STORE}/dialects/sqlite.py",
        '            connection.execute("PRAGMA synchronous = FULL")\n',
        '            connection.execute("PRAGMA synchronous = NORMAL")\n',
        f"{DATABASE}::test_every_connection_to_a_file_is_fully_synchronous",
    ),
    Guard(
        "synchronous_commit of our own",
        "a weaker default of the server would lose acknowledged work",
        f"{STORE}/dialects/postgres.py",
        'if synchronous == "off":',
        "if False:",
        f"{DATABASE}::test_synchronous_commit_of_the_server_cannot_weaken_ours",
    ),
    Guard(
        "rollback after a failed commit",
        "a busy commit would poison the connection for all that comes after",
        f"{STORE}/prepared.py",
        "                self.driver.rollback()\n",
        "                pass\n",
        f"{DATABASE}::test_a_commit_that_a_reader_held_up_is_made_again",
    ),
    Guard(
        "answer of a commit",
        "a transaction that Postgres rolled back would be reported as stored",
        f"{STORE}/dialects/postgres.py",
        '            if cursor.statusmessage != "COMMIT":',
        '            if False and cursor.statusmessage != "COMMIT":',
        f"{DATABASE}::test_a_commit_that_postgres_turned_into_a_rollback_is_no_success",
    ),
    Guard(
        "order of insertions in one statement",
        "a submit would lock counters before names, and a delete that meets it names before counters",
        f"{STORE}/dialects/postgres.py",
        "', '.join(reversed(parts))",
        "', '.join(parts)",
        "tests/store/test_submit_races.py::test_a_delete_and_a_resubmission_do_not_dead_lock",
    ),
    Guard(
        "end of stalled transactions",
        "a process stopped while it sends would keep its locks",
        f"{STORE}/dialects/postgres.py",
        "        return len(tx.execute(_END_STALLED).all())",
        "        return 0",
        f"{DATABASE}::test_a_process_stopped_while_it_sends_does_not_keep_its_locks",
    ),
    Guard(
        "locks for tasks that others wait for",
        "batches that share children would dead-lock, or release them twice",
        f"{STORE}/submits.py",
        "        elif reaches[parent] is Reach.ITSELF:\n            reaches[parent] = Reach.RELEASE\n",
        "",
        f"{SUBMIT}::test_a_large_graph_runs_to_its_end",
    ),
    Guard(
        "failing alone",
        "one bad submit would fail those that share its transaction",
        f"{STORE}/together.py",
        "            if len(calls) > 1:",
        "            if False and len(calls) > 1:",
        "tests/store/test_together.py::test_who_cannot_be_served_fails_alone",
    ),
    Guard(
        "no second try of a shared transaction",
        "submits whose commit went unanswered would be stored twice",
        f"{STORE}/together.py",
        "        except StoreUnavailable as error:  # nobody knows whether it was committed\n"
        "            answers = [error] * len(calls)\n",
        "",
        "tests/store/test_together.py::test_nothing_is_tried_again_when_nobody_knows_what_happened",
    ),
    Guard(
        "hints outside of the transaction",
        "what a hint is about would be committed without waiting for the disk",
        f"{STORE}/dialects/postgres.py",
        "        if self._begin is not None and not hints and (is_one or not self.is_watched):\n"
        "            # Nothing was sent: all up to the driver's sync is a transaction by itself. "
        "To those who watch\n"
        "            # several statements we show its ends.\n"
        "            self._begin = None\n",
        "        if self._begin is not None:\n"
        "            self._begin = None\n"
        "            self.send(_NOTIFY, (CHANNEL, *hints)) if hints else None\n",
        f"{DATABASE}::test_a_hint_goes_behind_the_commit_and_not_into_the_transaction",
    ),
    Guard(
        "hints may fail",
        "a submit that was committed would be answered with an error",
        f"{STORE}/dialects/postgres.py",
        '                if not hints or cursor.statusmessage != "COMMIT":\n',
        "                if True:\n",
        f"{DATABASE}::test_a_hint_that_cannot_be_given_does_not_undo_the_commit",
    ),
    Guard(
        "no rerun after an unknown commit",
        "a submit without a key would be made twice",
        f"{STORE}/database.py",
        "        return not committing and reruns == 1 and self.dialect.is_disconnect(error)",
        "        return reruns == 1 and self.dialect.is_disconnect(error)",
        "tests/crash/test_nth_call.py::test_a_commit_without_an_answer_is_not_made_again",
    ),
    Guard(
        "one transaction per finish",
        "a crash between outcome and release would strand the dependents",
        f"{STORE}/finishes.py",
        "    released = release_dependents(tx, settled, set(paused_runs.scalars()))\n",
        "    tx.execute(sa.text('COMMIT'))\n    tx.execute(sa.text('BEGIN'))\n"
        "    released = release_dependents(tx, settled, set(paused_runs.scalars()))\n",
        "tests/crash/test_crash.py::test_killed_at_a_sample_of_boundaries",
    ),
]
