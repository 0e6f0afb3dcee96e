/*
 * The greeting of two peers (SPEC, sections 1, 7 and 8), to OPEN or ENDED, and the end of what opens (section 9).
 *
 *     Initiator, Responder   the two machines of states.py; every move is looked up in states.pml
 *     Network                delays as it likes, cuts either direction for good and tells nobody, or puts a frame
 *                            of its own, an ALERT, or an end of stream into it
 *
 * A deadline strikes at any moment, or never where it is not needed; so every order in time is a run. What the
 * network cannot do is write a SYN-ACK, ACK or record that passes its checks: greeting.pv has that.
 *
 *     UNDISTURBED   the network only delays, no deadline strikes, and nobody refuses
 *     REFUSING      the network only delays, and only the responder's greeting has a deadline; both may refuse
 *
 * What is broken on purpose, each of which must be found:
 *
 *     NO_VERDICT       the initiator takes itself for accepted when it has sent ACK, as in TLS 1.3
 *     FORGED_VERDICT   the network can write READY
 *     NO_DEADLINE      the initiator waits for ever
 *     EARLY_ACK        the initiator sends ACK before it has decided
 *     ALERT_FOR_ALERT  an ALERT is answered by an ALERT
 *     NO_DRAIN         who refuses closes without reading on
 *     END_IS_CLOSE     an end of stream without CLOSE is taken for a clean end
 */

#define INITIATOR 0
#define RESPONDER 1
#define OTHER(role) (1 - role)
#define CAN_HEAR(role) (!lost[role] && nempty(to[role]))

#include "states.pml"

// What travels besides the inputs of the table.
mtype:input = { BROKEN, CLOSE, END, LATE };

mtype:outcome = { UNDECIDED, ACCEPTED, REJECTED, ALERTED, NO_RESPONSE, REFUSED };
// REJECTED: by a VERDICT, under the responder's key. ALERTED: by an ALERT, which anybody can write.

mtype:ending = { NOT_YET, CLEAN, CUT };

mtype:state state[2];
mtype:outcome outcome[2] = UNDECIDED;
mtype:ending ending[2] = NOT_YET;

chan to[2] = [8] of { mtype:input };
bool lost[2];     // nothing arrives at this role any more
bool closed[2];   // this role has closed the transport and reads nothing more
bool said_close[2];
bool said_ready, said_ack, has_decided, told;

#if defined(UNDISTURBED) || defined(REFUSING)
#define DISTURBED false
#else
#define DISTURBED true
#endif

#ifdef NO_DEADLINE
#define INITIATORS_TIME_IS_UP false
#else
#define INITIATORS_TIME_IS_UP DISTURBED
#endif

#ifdef UNDISTURBED
#define RESPONDERS_TIME_IS_UP false
#define MAY_REFUSE false
#else
#define RESPONDERS_TIME_IS_UP true
#define MAY_REFUSE true
#endif

inline settle(role, what)
{
    assert(outcome[role] == UNDECIDED);
    outcome[role] = what
}

inline hang_up(role)
{
    to[OTHER(role)] ! END;
    closed[role] = true
}

inline alert(role)
{
    assert(input != ALERT);  // which is what it answers
    to[OTHER(role)] ! ALERT
}

/* Everything behind READY: either side closes when it likes, and is answered. */
inline live(role)
{
    do
    :: atomic { !said_close[role] -> to[OTHER(role)] ! CLOSE; said_close[role] = true }
    :: atomic { CAN_HEAR(role) -> to[role] ? input;
            if
            :: input == CLOSE && !said_close[role] ->
                to[OTHER(role)] ! CLOSE; said_close[role] = true; ending[role] = CLEAN
            :: input == CLOSE && said_close[role] -> ending[role] = CLEAN
#ifdef END_IS_CLOSE
            :: input == END -> ending[role] = CLEAN
#endif
            :: else -> ending[role] = CUT
            fi;
            hang_up(role);
            break
        }
    :: atomic { DISTURBED -> ending[role] = CUT; hang_up(role); break }  // no answer to a ping, or to CLOSE
    od
}

proctype Initiator()
{
    mtype:input input;
    bool no_such_move, deciding;

    atomic { state[INITIATOR] = AWAIT_SYN_ACK; to[RESPONDER] ! SYN };

    do
    :: atomic {
        if
        :: (state[INITIATOR] == AWAIT_SYN_ACK || state[INITIATOR] == AWAIT_VERDICT) && CAN_HEAR(INITIATOR) ->
            to[INITIATOR] ? input
        :: state[INITIATOR] == PEER_IDENTIFIED -> input = ACCEPT
        :: state[INITIATOR] == SIGNING -> input = SIGNED
        :: (state[INITIATOR] == PEER_IDENTIFIED || state[INITIATOR] == SIGNING) && MAY_REFUSE -> input = REJECT
        :: INITIATORS_TIME_IS_UP -> input = LATE
        fi;
        deciding = state[INITIATOR] == PEER_IDENTIFIED || state[INITIATOR] == SIGNING;
        initiator_moves(input);
        if
        :: no_such_move ->
            assert(!deciding || input == LATE);
            if
            :: deciding -> settle(INITIATOR, REFUSED)
            :: else -> settle(INITIATOR, NO_RESPONSE)
            fi;
            state[INITIATOR] = ENDED
        :: !no_such_move && input == SYN_ACK ->
#ifdef EARLY_ACK
            to[RESPONDER] ! ACK; said_ack = true
#endif
        :: !no_such_move && input == ACCEPT -> has_decided = true
        :: !no_such_move && input == SIGNED ->
#ifndef EARLY_ACK
            to[RESPONDER] ! ACK; said_ack = true;
#endif
#ifdef NO_VERDICT
            settle(INITIATOR, ACCEPTED); state[INITIATOR] = OPEN
#endif
        :: !no_such_move && input == REJECT -> alert(INITIATOR); settle(INITIATOR, REFUSED)
        :: !no_such_move && input == ALERT ->
#ifdef ALERT_FOR_ALERT
            alert(INITIATOR);
#endif
            settle(INITIATOR, ALERTED)
        :: !no_such_move && input == REJECTION -> settle(INITIATOR, REJECTED)
        :: !no_such_move && input == READY -> settle(INITIATOR, ACCEPTED)
        fi;
        if
        :: state[INITIATOR] == OPEN || state[INITIATOR] == ENDED -> break
        :: else
        fi
    }
    od;

    if
    :: state[INITIATOR] == OPEN -> live(INITIATOR)
    :: atomic { state[INITIATOR] == ENDED -> hang_up(INITIATOR) }
    fi
}

proctype Responder()
{
    mtype:input input;
    bool no_such_move, deciding;

    state[RESPONDER] = AWAIT_SYN;

    do
    :: atomic {
        if
        :: (state[RESPONDER] == AWAIT_SYN || state[RESPONDER] == AWAIT_ACK) && CAN_HEAR(RESPONDER) ->
            to[RESPONDER] ? input
        :: state[RESPONDER] == SIGNING -> input = SIGNED
        :: state[RESPONDER] == PEER_IDENTIFIED -> input = ACCEPT
        // The policy, another connection (section 11), or the time is up.
        :: state[RESPONDER] == PEER_IDENTIFIED && MAY_REFUSE -> input = REJECT
        // The time is up, or it is busy, or going away.
        :: state[RESPONDER] != PEER_IDENTIFIED && RESPONDERS_TIME_IS_UP -> input = REFUSE
        fi;
        deciding = state[RESPONDER] == PEER_IDENTIFIED || state[RESPONDER] == SIGNING;
        responder_moves(input);
        if
        :: no_such_move ->
            assert(!deciding && input != REFUSE);
            if
            :: input == END -> settle(RESPONDER, NO_RESPONSE)
            // MALFORMED, HANDSHAKE_FAILED, …; in silence before the magic, and where it is set to be quiet.
            :: input != END -> alert(RESPONDER); settle(RESPONDER, REFUSED)
            :: input != END -> settle(RESPONDER, REFUSED)
            fi;
            state[RESPONDER] = ENDED
        :: !no_such_move && (input == SYN || input == ACK)
        :: !no_such_move && input == SIGNED -> to[INITIATOR] ! SYN_ACK
        :: !no_such_move && input == REFUSE -> alert(RESPONDER); told = true; settle(RESPONDER, REFUSED)
        :: !no_such_move && input == REJECT -> to[INITIATOR] ! REJECTION; told = true; settle(RESPONDER, REFUSED)
        :: !no_such_move && input == ALERT ->
#ifdef ALERT_FOR_ALERT
            alert(RESPONDER);
#endif
            settle(RESPONDER, ALERTED)
        :: !no_such_move && input == ACCEPT -> to[INITIATOR] ! READY; said_ready = true
        fi;
        if
        :: state[RESPONDER] == OPEN || state[RESPONDER] == ENDED -> break
        :: else
        fi
    }
    od;

    if
    :: atomic { state[RESPONDER] == OPEN -> settle(RESPONDER, ACCEPTED) };
        live(RESPONDER);
        goto over
    // It was not all written in time, and may arrive all the same: CLOSE follows it.
    :: atomic { state[RESPONDER] == OPEN && DISTURBED ->
            settle(RESPONDER, NO_RESPONSE); state[RESPONDER] = ENDED;
            to[INITIATOR] ! CLOSE; said_close[RESPONDER] = true
        }
    :: state[RESPONDER] == ENDED
    fi;
#ifndef NO_DRAIN
    do
    :: atomic { CAN_HEAR(RESPONDER) -> to[RESPONDER] ? input;
            if
            :: input == END -> break
            :: else
            fi
        }
    :: DISTURBED -> break  // after 1 s, or 5 s
    od;
#endif
    atomic { hang_up(RESPONDER) };
over:
    skip
}

proctype Network()
{
    byte role;
    bool written[2];

end:
    do
#ifdef REFUSING
    // What arrives where nobody reads any more is answered by a reset, which destroys what was on its way back.
    :: atomic { closed[RESPONDER] && nempty(to[RESPONDER]) && !closed[INITIATOR] && !lost[INITIATOR] ->
            do
            :: nempty(to[INITIATOR]) -> to[INITIATOR] ? _
            :: empty(to[INITIATOR]) -> break
            od;
            to[INITIATOR] ! END;
            break
        }
#endif
    :: atomic { DISTURBED ->
            if
            :: !lost[INITIATOR] || !written[INITIATOR] -> role = INITIATOR
            :: !lost[RESPONDER] || !written[RESPONDER] -> role = RESPONDER
            fi;
            if
            :: !lost[role] -> lost[role] = true
            :: !written[role] ->
                written[role] = true;
                if
                :: to[role] ! ALERT
                :: to[role] ! BROKEN
                :: to[role] ! END
#ifdef FORGED_VERDICT
                :: role == INITIATOR -> to[role] ! READY
#endif
                fi
            fi;
            if
            :: lost[INITIATOR] && lost[RESPONDER] && written[INITIATOR] && written[RESPONDER] -> break
            :: else
            fi
        }
    :: break
    od
}

init
{
    atomic { run Initiator(); run Responder(); run Network() }
}

ltl both_end { <>(outcome[INITIATOR] != UNDECIDED && outcome[RESPONDER] != UNDECIDED) }
ltl accepted_only_if_ready { [](outcome[INITIATOR] == ACCEPTED -> said_ready) }
ltl rejected_only_if_rejected { [](outcome[INITIATOR] == REJECTED -> (told && !said_ready)) }
ltl no_ack_before_the_decision { [](said_ack -> has_decided) }
ltl no_refusal_after_ready { [](said_ready -> (outcome[RESPONDER] == UNDECIDED || outcome[RESPONDER] == ACCEPTED || outcome[RESPONDER] == NO_RESPONSE)) }
ltl clean_only_if_closed { [](((ending[INITIATOR] == CLEAN) -> said_close[RESPONDER]) && ((ending[RESPONDER] == CLEAN) -> said_close[INITIATOR])) }
ltl open_if_undisturbed { <>(outcome[INITIATOR] == ACCEPTED && outcome[RESPONDER] == ACCEPTED && ending[INITIATOR] == CLEAN && ending[RESPONDER] == CLEAN) }
ltl a_refusal_is_heard { [](told && closed[RESPONDER] && closed[INITIATOR] -> (outcome[INITIATOR] == ALERTED || outcome[INITIATOR] == REJECTED || outcome[INITIATOR] == REFUSED)) }
