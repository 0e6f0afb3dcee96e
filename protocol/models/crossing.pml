/*
 * Two peers who dial each other (SPEC, section 11), as peer/trishake/_registry.py decides it.
 *
 *     Dial      a greeting as its initiator, then Registry.settle, or what the dial resolves to if it failed
 *     Welcome   a greeting as its responder, with Registry.objection before its verdict
 *     Transport the end of one side of a connection is heard by the other; a transport may be cut
 *
 * A dial is known by who dials: SMALL's and LARGE's, by the order of their ids. Each begins when it likes, also
 * when the other is over. Time is any order of events: LARGE's hold may end at any moment.
 *
 *     LATE_SMALL, LATE_LARGE   the time of that dial's greeting may be up at any moment, on either side of it; with
 *                              both, pings, READY and what a dial that is told waits for may be too slow as well
 *     CUTS                     either direction of either transport may fall silent for good
 *     REFUSALS                 the policies may refuse
 *     OLD                      there was a connection before, which lives, or one side of which is gone without a word
 *     IN_TIME                  both dials begin before either is answered, both know to whom they go, and LARGE's
 *                              hold is long enough
 *
 * What is broken on purpose, each of which must be found:
 *
 *     NO_HOLD        LARGE answers at once, though its own dial is under way
 *     BOTH_HOLD      SMALL holds its verdict too
 *     EACH_KEEPS_OWN whoever has two connections keeps the one that it dialed
 *     NEWEST_KEPT    whoever has two connections keeps the younger
 *     BOTH_STAY      nobody closes a second connection
 *     NO_PING        SMALL does not ask whether LARGE's connection lives before it takes its own in its place
 *     NO_TURN        a dial is settled while our listener is deciding about theirs
 *     NO_WAIT        a dial that is told DUPLICATE does not wait for our listener to open what it duplicates
 *     TOLD_IS_FAILED a dial that is told CROSSING or DUPLICATE fails
 *     NEVER_DEAD     a connection from before makes every other a duplicate, though it is dead
 *     YOUNG_IS_DEAD  a connection that opened during the other side's greeting is pinged, for a short time only
 *     BOTH_OBJECT    LARGE's dial ends too if SMALL has opened a connection before its ACK. With LATE_SMALL: LARGE has
 *                    said READY, and SMALL's time is up before it hears that
 *
 * NOT_OVERTAKEN, where SMALL's dial goes on when LARGE's has been accepted, breaks nothing: that rule saves SMALL the
 * wait for a verdict, and no more.
 */

#define SMALL 0
#define LARGE 1
#define OTHER(side) (1 - side)

mtype:message = { SYN, SYN_ACK, ACK, READY, ALERT, CROSSING, DUPLICATE, POLICY };
mtype:end = { GREETING, OPEN, ENDED };

// By the dial: its transport.
chan to_initiator[2] = [2] of { mtype:message };
chan to_responder[2] = [2] of { mtype:message };
bool deaf_initiator[2], deaf_responder[2];  // nothing arrives there any more
mtype:end initiator[2] = GREETING;
mtype:end responder[2] = GREETING;

// By the side: what its registry knows.
bool dialing[2];    // its dial is under way
bool knows[2];      // to whom it goes
bool deciding[2];   // its policy is asked about who has answered
bool met[2];        // the other side has opened a connection meanwhile
bool overtaken[2];
bool ready[2];
bool welcoming[2];  // the other side's greeting has begun
bool crosses[2];    // its dial's connection has opened behind that
bool turn[2];       // the other side's greeting is being decided
bool own_is_older[2];

#ifdef OLD
bool old[2];        // it has the connection from before
bit old_dialer;
#define OLD_OPEN(side) old[side]
#else
#define OLD_OPEN(side) false
#endif

// What came of it.
mtype:result = { PENDING, OWN, THEIRS, FAILED };
mtype:result result[2] = PENDING;
bool second_dial[2];  // it began when the other side's connection was there
bool over[2];         // the other side's greeting has ended here
bool replaced;

#define OWN_OPEN(side) (initiator[side] == OPEN)
#define THEIRS_OPEN(side) (responder[OTHER(side)] == OPEN)

#ifdef LATE_SMALL
#define LATE_S true
#else
#define LATE_S false
#endif
#ifdef LATE_LARGE
#define LATE_L true
#else
#define LATE_L false
#endif
#ifdef CUTS
#define CUT(dial) (deaf_initiator[dial] || deaf_responder[dial])
#else
#define CUT(dial) false
#endif
#define TIME_IS_UP(dial) ((dial == SMALL && LATE_S) || (dial == LARGE && LATE_L) || CUT(dial))
#define WRITE_IS_LATE(dial) ((LATE_S && LATE_L) || CUT(dial))
#define SLOW ((LATE_S && LATE_L) || CUT(SMALL) || CUT(LARGE))

#ifdef REFUSALS
#define MAY_REFUSE true
#else
#define MAY_REFUSE false
#endif
#ifdef YOUNG_IS_DEAD
#define PING_IS_LATE OWN_OPEN(me)
#else
#define PING_IS_LATE (SLOW && OWN_OPEN(me))
#endif
#ifdef IN_TIME
#define HOLD_IS_OVER false
#define BEGUN ((dialing[SMALL] || result[SMALL] != PENDING) && (dialing[LARGE] || result[LARGE] != PENDING))
#else
#define HOLD_IS_OVER true
#define BEGUN true
#endif
#ifdef BOTH_HOLD
#define HOLDS(side) true
#else
#ifdef NO_HOLD
#define HOLDS(side) false
#else
#define HOLDS(side) (side == LARGE)
#endif
#endif

#ifdef BOTH_OBJECT
#define OBJECTS(side) true
#else
#define OBJECTS(side) (side == SMALL)
#endif
#define INITIATOR_HEARS(dial) (!deaf_initiator[dial] && nempty(to_initiator[dial]))
#define RESPONDER_HEARS(dial) (!deaf_responder[dial] && nempty(to_responder[dial]))
// The end of the stream comes behind everything that was sent.
#define INITIATOR_HEARS_END(dial) (!deaf_initiator[dial] && empty(to_initiator[dial]) && responder[dial] == ENDED)
#define RESPONDER_HEARS_END(dial) (!deaf_responder[dial] && empty(to_responder[dial]) && initiator[dial] == ENDED)

/* Whether the own, or their, connection answers a ping. */
#define OWN_ANSWERS(side) (OWN_OPEN(side) && responder[side] == OPEN && !CUT(side))
#define THEIRS_ANSWERS(side) (THEIRS_OPEN(side) && initiator[OTHER(side)] == OPEN && !CUT(OTHER(side)))

inline replace_own(side)
{
    initiator[side] = ENDED;
    replaced = true
}

inline replace_theirs(side)
{
    responder[OTHER(side)] = ENDED;
    replaced = true
}

inline replace_old(side)
{
#ifdef OLD
    old[side] = false
#else
    skip
#endif
}

/* Registry._trim: the oldest goes. */
inline trim(side)
{
    if
    :: OLD_OPEN(side) && (OWN_OPEN(side) || THEIRS_OPEN(side)) -> replace_old(side)
    :: else
    fi;
    if
#ifndef BOTH_STAY
    :: OWN_OPEN(side) && THEIRS_OPEN(side) ->
#ifdef EACH_KEEPS_OWN
        replace_theirs(side)
#else
        if
        :: own_is_older[side] -> replace_own(side)
        :: else -> replace_theirs(side)
        fi
#endif
#endif
    :: else
    fi
}

/* Registry.add, for the connection that our dial has opened. */
inline add_own(side)
{
    initiator[side] = OPEN;
    own_is_older[side] = !THEIRS_OPEN(side);
    crosses[side] = welcoming[side];
    if
#ifndef NEWEST_KEPT
#ifdef OLD
    :: side == SMALL && old[side] && old_dialer == LARGE  // to be settled
    :: side == SMALL && THEIRS_OPEN(side) && !old[side]
#else
    :: side == SMALL && THEIRS_OPEN(side)  // to be settled
#endif
#endif
    :: else -> trim(side)
    fi
}

/* Registry.add, for the connection that they have opened to us. */
inline add_theirs(side)
{
    responder[OTHER(side)] = OPEN;
    if
#ifndef NEWEST_KEPT
    :: side == LARGE && OWN_OPEN(side) ->
#ifndef BOTH_STAY
        replace_theirs(side)
#endif
#endif
    :: else ->
        own_is_older[side] = OWN_OPEN(side);
        met[side] = dialing[side];
#ifndef NOT_OVERTAKEN
        overtaken[side] = side == SMALL && dialing[side] && knows[side] && !deciding[side];
#endif
        trim(side)
    fi
}

/* It is over, without a connection of its own: what does the dial give? */
inline give_up(what)
{
    result[me] = what;
    dialing[me] = false
}

inline give_theirs()
{
    if
    :: THEIRS_OPEN(me) -> give_up(THEIRS)
    :: else -> give_up(FAILED)
    fi
}

proctype Dial(bit me)
{
    mtype:message heard;

    atomic {
        dialing[me] = true;
        second_dial[me] = THEIRS_OPEN(me);
        if
        :: knows[me] = true  // it was given
#ifndef IN_TIME
        :: knows[me] = false
#endif
        fi;
        to_responder[me] ! SYN
    };

    // AWAIT_SYN_ACK
    if
    :: atomic { INITIATOR_HEARS(me) -> to_initiator[me] ? heard;
            if
            :: heard == SYN_ACK -> knows[me] = true; deciding[me] = true
            :: else -> initiator[me] = ENDED; give_up(FAILED); goto gone
            fi
        }
    :: atomic { INITIATOR_HEARS_END(me) || TIME_IS_UP(me) -> initiator[me] = ENDED; give_up(FAILED); goto gone }
    :: atomic { overtaken[me] -> initiator[me] = ENDED; give_theirs(); goto gone }
    fi;

    // PEER_IDENTIFIED
    if
    :: atomic { deciding[me] = false;
            if
            :: OBJECTS(me) && met[me] && THEIRS_OPEN(me) -> to_responder[me] ! ALERT; initiator[me] = ENDED; give_theirs(); goto gone
            :: else
            fi
        }
    :: atomic { TIME_IS_UP(me) -> initiator[me] = ENDED; deciding[me] = false; give_up(FAILED); goto gone }
    :: atomic { MAY_REFUSE ->
            to_responder[me] ! ALERT; initiator[me] = ENDED; deciding[me] = false; give_up(FAILED); goto gone
        }
    fi;

    // SIGNING
    if
    :: to_responder[me] ! ACK
    :: atomic { TIME_IS_UP(me) -> initiator[me] = ENDED; give_up(FAILED); goto gone }
    :: atomic { overtaken[me] -> initiator[me] = ENDED; give_theirs(); goto gone }
    fi;

    // AWAIT_VERDICT
    if
    :: atomic { INITIATOR_HEARS(me) -> to_initiator[me] ? heard;
            if
            :: heard == READY -> add_own(me); ready[me] = true; dialing[me] = false; goto settling
            :: else -> initiator[me] = ENDED
            fi;
#ifdef TOLD_IS_FAILED
            heard = POLICY;
#endif
            if
            :: heard == DUPLICATE || heard == CROSSING
            :: else -> give_up(FAILED); goto gone
            fi
        }
    :: atomic { INITIATOR_HEARS_END(me) || TIME_IS_UP(me) -> initiator[me] = ENDED; give_up(FAILED); goto gone }
    :: atomic { overtaken[me] -> initiator[me] = ENDED; give_theirs(); goto gone }
    fi;

    // Registry.kept_instead
    if
    // Not one from before: our listener has said READY, so that is gone.
    :: atomic { heard == CROSSING && THEIRS_OPEN(me) -> give_up(THEIRS) }
    :: atomic { heard == CROSSING && SLOW -> give_up(FAILED) }
#ifdef NO_WAIT
    :: atomic { heard == DUPLICATE && met[me] -> give_theirs() }
    :: atomic { heard == DUPLICATE && !met[me] -> give_up(FAILED) }
#else
    :: atomic { heard == DUPLICATE && met[me] -> give_theirs() }
    :: atomic { heard == DUPLICATE && !met[me] && (!turn[me] || WRITE_IS_LATE(OTHER(me))) -> give_up(FAILED) }
#endif
    fi;
    goto gone;

settling:
#ifndef NO_TURN
    if
    :: me == LARGE
    :: me == SMALL && !turn[me]
    fi;
#endif
    if
    // One from before is not asked: its greeting was over long ago.
    :: atomic { me == SMALL && OWN_OPEN(me) && THEIRS_OPEN(me) && !own_is_older[me] && !OLD_OPEN(me) };
#ifndef NO_PING
        if
        :: atomic { THEIRS_ANSWERS(me) ->
                if
#ifndef BOTH_STAY
                :: OWN_OPEN(me) -> replace_own(me)
#endif
                :: else
                fi
            }
        :: !THEIRS_OPEN(me)
        :: SLOW
        fi
#endif
    :: else
    fi;
    atomic {
        trim(me);
        if
        :: !OWN_OPEN(me) && THEIRS_OPEN(me) -> result[me] = THEIRS
        :: else -> result[me] = OWN
        fi
    };
gone:
    skip
}

proctype Welcome(bit me; bit dial)
{
    mtype:message heard, objection;

    // From accept on, before SYN is there.
    atomic { (dialing[dial] || result[dial] != PENDING) && BEGUN -> welcoming[me] = true };

    // AWAIT_SYN
    if
    :: atomic { RESPONDER_HEARS(dial) -> to_responder[dial] ? heard }
    :: atomic { TIME_IS_UP(dial) -> to_initiator[dial] ! ALERT; responder[dial] = ENDED; goto gone }
    fi;
    to_initiator[dial] ! SYN_ACK;

    // AWAIT_ACK
    if
    :: atomic { RESPONDER_HEARS(dial) -> to_responder[dial] ? heard;
            if
            :: heard == ACK
            :: else -> responder[dial] = ENDED; goto gone
            fi
        }
    :: atomic { RESPONDER_HEARS_END(dial) -> responder[dial] = ENDED; goto gone }
    :: atomic { TIME_IS_UP(dial) -> to_initiator[dial] ! ALERT; responder[dial] = ENDED; goto gone }
    fi;

    // PEER_IDENTIFIED
    if
    :: turn[me] = true
    :: atomic { TIME_IS_UP(dial) || MAY_REFUSE -> to_initiator[dial] ! POLICY; responder[dial] = ENDED; goto gone }
    fi;

    // Registry.objection
    if
    :: atomic { HOLDS(me) && crosses[me] && OWN_OPEN(me) -> objection = CROSSING; goto verdict }
    :: atomic { HOLDS(me) && !(crosses[me] && OWN_OPEN(me)) && dialing[me] && knows[me] };
        if
        :: atomic { !dialing[me] && ready[me] -> objection = CROSSING; goto verdict }
        :: atomic { !dialing[me] && !ready[me] -> goto others }
        :: atomic { HOLD_IS_OVER -> goto others }
        :: atomic { TIME_IS_UP(dial) -> objection = POLICY; goto verdict }
        fi
    :: atomic { else -> goto others }
    fi;
others:
    if
#ifdef OLD
    :: OLD_OPEN(me);
        if
#ifdef NEVER_DEAD
        :: atomic { old[me] -> objection = DUPLICATE; goto verdict }
#else
        :: atomic { old[me] && old[OTHER(me)] -> objection = DUPLICATE; goto verdict }
#endif
        :: atomic { !old[OTHER(me)] || SLOW -> replace_old(me); goto others }
        :: atomic { TIME_IS_UP(dial) -> objection = POLICY; goto verdict }
        fi
#endif
    :: atomic { !OLD_OPEN(me) && !OWN_OPEN(me) -> objection = READY; to_initiator[dial] ! READY }
#ifndef YOUNG_IS_DEAD
    :: atomic { !OLD_OPEN(me) && OWN_OPEN(me) && crosses[me] -> objection = DUPLICATE }
    :: !OLD_OPEN(me) && OWN_OPEN(me) && !crosses[me];
#else
    :: !OLD_OPEN(me) && OWN_OPEN(me);
#endif
        if
        :: atomic { OWN_ANSWERS(me) -> objection = DUPLICATE }
        :: atomic { !OWN_OPEN(me) -> goto others }
        :: atomic { PING_IS_LATE -> replace_own(me); goto others }
        :: atomic { TIME_IS_UP(dial) -> objection = POLICY }
        fi
    fi;
verdict:
    if
    :: objection == READY;
        if
        :: atomic { add_theirs(me); over[me] = true; turn[me] = false }
        // It was not written in time, though it may arrive; or there is nobody any more.
        :: atomic { WRITE_IS_LATE(dial) || initiator[dial] == ENDED ->
                responder[dial] = ENDED; over[me] = true; turn[me] = false
            }
        fi
    :: atomic { objection != READY -> to_initiator[dial] ! objection; responder[dial] = ENDED };
        atomic { over[me] = true; turn[me] = false }
    fi;
gone:
    over[me] = true
}

/* A side that closes a connection, or dies of its silence, is heard by the other. */
proctype Transport(bit dial)
{
end:
    do
    :: atomic { initiator[dial] == OPEN && (INITIATOR_HEARS_END(dial) || CUT(dial)) -> initiator[dial] = ENDED }
    :: atomic { responder[dial] == OPEN && (RESPONDER_HEARS_END(dial) || CUT(dial)) -> responder[dial] = ENDED }
#ifdef CUTS
    :: atomic { !deaf_initiator[dial] -> deaf_initiator[dial] = true }
    :: atomic { !deaf_responder[dial] -> deaf_responder[dial] = true }
#endif
    od
}

#define SAME(dial) (initiator[dial] != GREETING && responder[dial] != GREETING && \
    (initiator[dial] == OPEN) == (responder[dial] == OPEN))
#define IS_OPEN(dial) (initiator[dial] == OPEN && responder[dial] == OPEN)
#define GIVES_IT(side) ((result[side] == OWN && IS_OPEN(side)) || (result[side] == THEIRS && IS_OPEN(OTHER(side))))

#ifdef OLD
proctype Before()
{
end:
    do
    :: atomic { old[SMALL] && !old[LARGE] -> old[SMALL] = false }  // it hears of it, or its pings are not answered
    :: atomic { old[LARGE] && !old[SMALL] -> old[LARGE] = false }
    od
}
#define OLD_SAME (old[SMALL] == old[LARGE])
#define OLD_IS_OPEN (old[SMALL] && old[LARGE])
#else
#define OLD_SAME true
#define OLD_IS_OPEN false
#endif
#define MAY_FAIL(side) (second_dial[side] || lived)

init
{
    bool lived;

    atomic {
        run Dial(SMALL); run Dial(LARGE);
        run Welcome(SMALL, LARGE); run Welcome(LARGE, SMALL);
        run Transport(SMALL); run Transport(LARGE);
#ifdef OLD
        if
        :: old_dialer = SMALL
        :: old_dialer = LARGE
        fi;
        if
        :: old[SMALL] = true; old[LARGE] = true; lived = true
        :: old[SMALL] = true
        :: old[LARGE] = true
        fi;
        run Before()
#endif
    };
    // All is quiet.
    atomic {
        result[SMALL] != PENDING && result[LARGE] != PENDING && over[SMALL] && over[LARGE] &&
            SAME(SMALL) && SAME(LARGE) && OLD_SAME;

        assert(IS_OPEN(SMALL) + IS_OPEN(LARGE) + OLD_IS_OPEN <= 1);
#if !defined(LATE_LARGE) && !defined(CUTS) && !defined(REFUSALS)
        assert(IS_OPEN(SMALL) || IS_OPEN(LARGE) || OLD_IS_OPEN);
        assert(!lived || OLD_IS_OPEN);
#ifndef LATE_SMALL
        assert(GIVES_IT(SMALL) || (result[SMALL] == FAILED && MAY_FAIL(SMALL)));
#else
        assert(GIVES_IT(SMALL) || result[SMALL] == FAILED);
#endif
        assert(GIVES_IT(LARGE) || (result[LARGE] == FAILED && MAY_FAIL(LARGE)));
#endif
#ifdef IN_TIME
        assert(IS_OPEN(LARGE) && !replaced);  // nobody has had a connection that is not kept
#endif
    }
}
