// Generated from GREETING in trishake_protocol/states.py: WRITE_STATES=1 pytest tests/test_models.py

mtype:state = { AWAIT_SYN, SIGNING, AWAIT_SYN_ACK, AWAIT_ACK, PEER_IDENTIFIED, AWAIT_VERDICT, OPEN, ENDED };
mtype:input = { SYN, SYN_ACK, ACK, ALERT, READY, REJECTION, ACCEPT, REJECT, REFUSE, SIGNED };

inline initiator_moves(input)
{
    if
    :: state[INITIATOR] == AWAIT_SYN_ACK && input == SYN_ACK -> state[INITIATOR] = PEER_IDENTIFIED
    :: state[INITIATOR] == AWAIT_SYN_ACK && input == ALERT -> state[INITIATOR] = ENDED
    :: state[INITIATOR] == PEER_IDENTIFIED && input == ACCEPT -> state[INITIATOR] = SIGNING
    :: state[INITIATOR] == PEER_IDENTIFIED && input == REJECT -> state[INITIATOR] = ENDED
    :: state[INITIATOR] == SIGNING && input == SIGNED -> state[INITIATOR] = AWAIT_VERDICT
    :: state[INITIATOR] == SIGNING && input == REJECT -> state[INITIATOR] = ENDED
    :: state[INITIATOR] == AWAIT_VERDICT && input == READY -> state[INITIATOR] = OPEN
    :: state[INITIATOR] == AWAIT_VERDICT && input == REJECTION -> state[INITIATOR] = ENDED
    :: state[INITIATOR] == AWAIT_VERDICT && input == ALERT -> state[INITIATOR] = ENDED
    :: else -> no_such_move = true
    fi
}

inline responder_moves(input)
{
    if
    :: state[RESPONDER] == AWAIT_SYN && input == SYN -> state[RESPONDER] = SIGNING
    :: state[RESPONDER] == AWAIT_SYN && input == ALERT -> state[RESPONDER] = ENDED
    :: state[RESPONDER] == AWAIT_SYN && input == REFUSE -> state[RESPONDER] = ENDED
    :: state[RESPONDER] == SIGNING && input == SIGNED -> state[RESPONDER] = AWAIT_ACK
    :: state[RESPONDER] == SIGNING && input == REFUSE -> state[RESPONDER] = ENDED
    :: state[RESPONDER] == AWAIT_ACK && input == ACK -> state[RESPONDER] = PEER_IDENTIFIED
    :: state[RESPONDER] == AWAIT_ACK && input == ALERT -> state[RESPONDER] = ENDED
    :: state[RESPONDER] == AWAIT_ACK && input == REFUSE -> state[RESPONDER] = ENDED
    :: state[RESPONDER] == PEER_IDENTIFIED && input == ACCEPT -> state[RESPONDER] = OPEN
    :: state[RESPONDER] == PEER_IDENTIFIED && input == REJECT -> state[RESPONDER] = ENDED
    :: else -> no_such_move = true
    fi
}
