"""states.py: the tables are closed, and whatever is not in them is an error of the right side."""

from __future__ import annotations

import contextlib
import re
from itertools import product, takewhile

import pytest

from trishake_protocol import CloseCode, Direction, LocalProtocolError, RemoteProtocolError, Role, State, states
from trishake_protocol.states import (
    DIRECTION,
    GREETING,
    HALF,
    STREAM,
    Half,
    Input,
    Machine,
    Part,
    Record,
    StreamInput,
    StreamMachine,
    StreamState,
)

ARRIVES = (Input.SYN, Input.SYN_ACK, Input.ACK, Input.ALERT, Input.READY, Input.REJECTION)
DECIDED = (Input.ACCEPT, Input.REJECT, Input.REFUSE, Input.SIGNED)
MOVES = [(role, state, input_) for role in Role for state in GREETING[role] for input_ in Input]

RECORDS = list(product(Direction, Record))

BEGINS = {StreamState.AWAIT_ANSWER: "opener", StreamState.AWAIT_PROTOCOL: "acceptor"}
STEPS = list(product(StreamState, StreamInput))
PARTS = list(product(Half, Part))


def named(value: object) -> str:
    return getattr(value, "name", str(value))


def at(role: Role, state: State) -> Machine:
    machine = Machine(role)
    machine.state = state
    return machine


def move(machine: Machine, input_: Input) -> None:
    (machine.receive if input_ in ARRIVES else machine.decide)(input_)


def reached_from(start: object, table: dict) -> set:
    reached, new = set(), {start}
    while new:
        reached |= new
        new = {target for state in new for target in table[state].values()} - reached
    return reached


def drawn(heads: tuple[str, str]) -> tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]]:
    """The moves (state, input, target) of the two columns that states.py draws under these heads."""
    lines = (states.__doc__ or "").splitlines()
    top = next(i for i, line in enumerate(lines) if line.split() == list(heads))
    middle = lines[top].index(heads[1])
    rows = list(takewhile(lambda line: not line[:1].isalpha(), lines[top + 1 :]))
    left = [row[:middle] for row in rows if "each half" not in row]
    return moves_of(left), moves_of([row[middle:] for row in rows])


def moves_of(column: list[str]) -> set[tuple[str, str, str]]:
    moves, state, down = set(), "", ""
    for line in column:
        if found := re.fullmatch(r"\s*│ (\w+)\s*", line):
            down = found[1]
        elif found := re.fullmatch(r"\s*(\w+)(?: ──([A-Z_, ]+)─*▶ (\w+))?\s*", line):
            if down:
                moves.add((state, down, found[1]))
            state, down = found[1], ""
            moves |= {(state, input_, found[3]) for input_ in (found[2] or "").split(", ") if input_}
    return moves


def moves_in(table: dict) -> set[tuple[str, str, str]]:
    return {(state.name, input_.name, to.name) for state, moves in table.items() for input_, to in moves.items()}


def test_the_greetings_table_is_what_is_drawn_above_it() -> None:
    initiator, responder = drawn(("initiator", "responder"))
    assert moves_in(GREETING[Role.INITIATOR]) == initiator
    assert moves_in(GREETING[Role.RESPONDER]) == responder


def test_the_table_of_a_streams_greeting_is_what_is_drawn_above_it() -> None:
    opener, acceptor = drawn(("opener", "acceptor"))
    assert moves_in(STREAM) == opener | acceptor


def test_an_input_either_arrives_or_is_decided() -> None:
    assert set(ARRIVES) | set(DECIDED) == set(Input)


@pytest.mark.parametrize("role", Role)
def test_every_target_of_the_greeting_is_a_state_of_its_role(role: Role) -> None:
    targets = {target for moves in GREETING[role].values() for target in moves.values()}
    assert targets <= set(GREETING[role])


@pytest.mark.parametrize("role", Role)
def test_every_state_of_the_greeting_can_be_reached(role: Role) -> None:
    assert reached_from(Machine(role).state, GREETING[role]) == set(GREETING[role])


def test_every_state_belongs_to_a_role() -> None:
    assert set(GREETING[Role.INITIATOR]) | set(GREETING[Role.RESPONDER]) == set(State)


@pytest.mark.parametrize("role", Role)
def test_every_state_but_an_open_one_can_still_end(role: Role) -> None:
    for state in GREETING[role]:
        if state is not State.OPEN:
            assert State.ENDED in reached_from(state, GREETING[role])


@pytest.mark.parametrize("role", Role)
def test_no_move_leaves_the_end(role: Role) -> None:
    assert GREETING[role][State.ENDED] == {}


def test_only_an_accepted_and_ready_greeting_opens() -> None:
    """The one way in: nothing that arrives opens a responder, nothing that we decide opens an initiator."""
    into = [
        (role, state, input_) for role, state, input_ in MOVES if GREETING[role][state].get(input_) is State.OPEN
    ]
    assert into == [
        (Role.INITIATOR, State.AWAIT_VERDICT, Input.READY),
        (Role.RESPONDER, State.PEER_IDENTIFIED, Input.ACCEPT),
    ]


@pytest.mark.parametrize(("role", "state", "input_"), MOVES, ids=named)
def test_a_move_of_the_table_is_made_and_any_other_is_an_error(role: Role, state: State, input_: Input) -> None:
    """A breach by the other side if it arrived, by the caller if he asked for it. The state then stays."""
    machine = at(role, state)
    target = GREETING[role][state].get(input_)
    if target is not None:
        move(machine, input_)
        assert machine.state is target
        return
    error, text = (
        (RemoteProtocolError, f"{input_.value} arrived while {state.value}")
        if input_ in ARRIVES
        else (LocalProtocolError, f"cannot {input_.value}: the session is {state.value}")
    )
    with pytest.raises(error) as caught:
        move(machine, input_)
    assert str(caught.value) == text
    assert machine.state is state


# --- the directions -------------------------------------------------------------------------------------


def test_the_table_of_directions_is_closed_and_all_of_it_can_be_reached() -> None:
    assert set(DIRECTION) == set(Direction)
    assert reached_from(Direction.OPEN, DIRECTION) == set(Direction)


def test_nothing_leaves_a_closed_direction_and_none_opens_again() -> None:
    assert DIRECTION[Direction.CLOSED] == {}
    assert Direction.OPEN not in DIRECTION[Direction.FINISHED].values()


def test_no_data_follows_a_close() -> None:
    assert [direction for direction in Direction if Record.DATA in DIRECTION[direction]] == [Direction.OPEN]


HISTORIES = [
    ([Record.DATA, Record.PING, Record.DATA], Direction.OPEN),
    ([Record.DATA, Record.FINISH], Direction.FINISHED),
    ([Record.FINISH, Record.PING, Record.PING], Direction.FINISHED),
    ([Record.FINISH, Record.PING, Record.CLOSE], Direction.CLOSED),
    ([Record.PING, Record.CLOSE], Direction.CLOSED),
]


@pytest.mark.parametrize(("records", "end"), HISTORIES)
def test_a_direction_carries_data_until_it_is_half_closed_and_pings_until_it_is_closed(
    records: list[Record], end: Direction
) -> None:
    machine = at(Role.INITIATOR, State.OPEN)
    for record in records:
        machine.record_received(record)
        machine.record_sent(record)
    assert machine.receiving is machine.sending is end


@pytest.mark.parametrize(("direction", "record"), RECORDS, ids=named)
def test_what_we_receive_moves_their_direction_or_is_their_breach(direction: Direction, record: Record) -> None:
    machine = at(Role.INITIATOR, State.OPEN)
    machine.receiving = direction
    target = DIRECTION[direction].get(record)
    if target is None:
        with pytest.raises(RemoteProtocolError, match=f"{record.value} arrived on a {direction.value} dir"):
            machine.record_received(record)
    else:
        machine.record_received(record)
    assert machine.receiving is (target or direction)
    assert machine.sending is Direction.OPEN


@pytest.mark.parametrize(("direction", "record"), RECORDS, ids=named)
def test_what_we_send_moves_our_direction_or_is_our_mistake(direction: Direction, record: Record) -> None:
    machine = at(Role.RESPONDER, State.OPEN)
    machine.sending = direction
    target = DIRECTION[direction].get(record)
    if target is None:
        with pytest.raises(LocalProtocolError, match=f"cannot send {record.value}: our direction is"):
            machine.record_sent(record)
    else:
        machine.record_sent(record)
    assert machine.sending is (target or direction)
    assert machine.receiving is Direction.OPEN


@pytest.mark.parametrize("role", Role)
def test_nothing_can_be_sent_before_a_session_is_open_or_after_its_end(role: Role) -> None:
    for state, record in product(GREETING[role], Record):
        if state is not State.OPEN:
            machine = at(role, state)
            with pytest.raises(LocalProtocolError, match="the session is"):
                machine.record_sent(record)
            assert machine.sending is Direction.OPEN


@pytest.mark.parametrize("state", State)
def test_a_session_can_be_ended_from_any_state(state: State) -> None:
    machine = at(Role.RESPONDER, state)
    machine.end()
    assert machine.state is State.ENDED


# --- data before the verdict (section 9) ----------------------------------------------------------------


def optimistic() -> Machine:
    machine = at(Role.INITIATOR, State.AWAIT_VERDICT)
    machine.optimistic = True
    return machine


@pytest.mark.parametrize("role", Role)
def test_a_session_does_not_send_before_the_verdict_unless_told(role: Role) -> None:
    assert Machine(role).optimistic is False


@pytest.mark.parametrize("record", Record, ids=named)
def test_before_the_verdict_data_may_be_sent_and_nothing_else(record: Record) -> None:
    machine = optimistic()
    if record is Record.DATA:
        machine.record_sent(record)
    else:
        with pytest.raises(LocalProtocolError, match="the session is waiting for VERDICT"):
            machine.record_sent(record)
    assert machine.sending is Direction.OPEN


@pytest.mark.parametrize("input_", [Input.READY, Input.REJECTION, Input.ALERT, Input.SYN], ids=named)
def test_whatever_arrives_ends_the_time_before_the_verdict(input_: Input) -> None:
    machine = optimistic()
    with contextlib.suppress(RemoteProtocolError):
        machine.receive(input_)
    assert machine.optimistic is False


def test_a_session_that_has_ended_sends_no_data_before_a_verdict() -> None:
    machine = optimistic()
    machine.end()
    assert machine.optimistic is False
    with pytest.raises(LocalProtocolError, match="the session is ended"):
        machine.record_sent(Record.DATA)


# --- a stream -------------------------------------------------------------------------------------------


def test_the_table_of_a_streams_greeting_is_closed_and_all_of_it_can_be_reached() -> None:
    assert set(STREAM) == set(StreamState)
    assert {state for begin in BEGINS for state in reached_from(begin, STREAM)} == set(StreamState)


@pytest.mark.parametrize("begin", BEGINS, ids=BEGINS.get)
def test_a_stream_ends_its_greeting_open_or_refused_and_stays_so(begin: StreamState) -> None:
    last = {state for state in reached_from(begin, STREAM) if not STREAM[state]}
    assert last == {StreamState.OPEN, StreamState.REFUSED}


def test_an_opener_hears_its_answer_and_an_acceptor_gives_it() -> None:
    used = {
        begin: {input_ for state in reached_from(begin, STREAM) for input_ in STREAM[state]} for begin in BEGINS
    }
    assert used == {
        StreamState.AWAIT_ANSWER: {StreamInput.ACCEPTED, StreamInput.REFUSED},
        StreamState.AWAIT_PROTOCOL: {StreamInput.PROTOCOL, StreamInput.ACCEPT, StreamInput.REFUSE},
    }


@pytest.mark.parametrize(("state", "input_"), STEPS, ids=named)
def test_a_step_of_a_streams_greeting_is_made_and_any_other_is_an_error(
    state: StreamState, input_: StreamInput
) -> None:
    machine = StreamMachine(7, state)
    target = STREAM[state].get(input_)
    if target is None:
        with pytest.raises(LocalProtocolError) as caught:
            machine.greet(input_)
        assert str(caught.value) == f"cannot {input_.value} stream 7: it is {state.value}"
    else:
        machine.greet(input_)
    assert machine.state is (target or state)
    assert machine.sending is machine.receiving is Half.OPEN


def test_the_table_of_halves_is_closed_and_nothing_follows_fin() -> None:
    assert set(HALF) == set(Half) == reached_from(Half.OPEN, HALF)
    assert set(HALF[Half.OPEN]) == set(Part)
    assert HALF[Half.OPEN][Part.DATA] is Half.OPEN
    assert HALF[Half.FINISHED] == {}


@pytest.mark.parametrize(("half", "part"), PARTS, ids=named)
def test_what_a_stream_receives_moves_their_half_or_is_their_breach(half: Half, part: Part) -> None:
    machine = StreamMachine(7, StreamState.OPEN)
    machine.receiving = half
    target = HALF[half].get(part)
    if target is None:
        with pytest.raises(RemoteProtocolError, match=f"{part.value} behind FIN on stream 7") as caught:
            machine.received(part)
        assert caught.value.reason is CloseCode.PROTOCOL
    else:
        machine.received(part)
    assert machine.receiving is (target or half)
    assert machine.sending is Half.OPEN


@pytest.mark.parametrize(("half", "part"), PARTS, ids=named)
def test_what_a_stream_sends_moves_our_half_or_is_our_mistake(half: Half, part: Part) -> None:
    machine = StreamMachine(7, StreamState.OPEN)
    machine.sending = half
    target = HALF[half].get(part)
    if target is None:
        with pytest.raises(LocalProtocolError, match="cannot send on stream 7: our half is finished"):
            machine.sent(part)
    else:
        machine.sent(part)
    assert machine.sending is (target or half)
    assert machine.receiving is Half.OPEN


@pytest.mark.parametrize(("sending", "receiving"), list(product(Half, Half)), ids=named)
def test_a_stream_is_over_when_both_halves_are_finished(sending: Half, receiving: Half) -> None:
    machine = StreamMachine(7, StreamState.OPEN)
    machine.sending, machine.receiving = sending, receiving
    assert machine.over is (sending is receiving is Half.FINISHED)
