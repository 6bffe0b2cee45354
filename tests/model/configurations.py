"""The searches of the everyday suite: small enough to be exhausted, each for its own danger."""

from __future__ import annotations

from tests.model.state import Config

ONE_SERVICE = Config(
    "one service", "two crashes anywhere, answers lost, requests late; a malformed message",
    messages=(2, 1), crashes=2)
WORKERS_ONLY = Config(
    "workers only", "two messages each, no requests lost; one worker dies",
    messages=(2, 2), crashes=1, supervisors_crash=False, losses=False)
FIRST_START = Config(
    "first start", "tables without positions, reading begins at the latest, messages come in",
    messages=(2, 1), malformed=((), ()), new_tables=True, earliest=False, written=(0, 1))
FIRST_START_WITH_OFFSETS = Config(
    "first start with offsets", "tables without positions, the group has committed 1",
    messages=(2, 1), malformed=((), ()), new_tables=True, kafka=1, written=(1, 1))
TWO_OF_ONE_IDENTITY = Config(
    "two of one identity", "a second service with our identity is started at any moment",
    messages=(1, 1), malformed=((0,), ()), spares=(0,), crashes=0, losses=False)
TWO_OF_ONE_IDENTITY_LOSSES = Config(
    "two of one identity, losses", "the same with one topic, lost answers and late requests",
    messages=(2,), malformed=((),), owner=(0,), spares=(0,), crashes=0, goal=(0,))
TWO_INSTANCES = Config(
    "two instances", "one partition moves from one instance to the other at any moment",
    messages=(1, 1), malformed=((), ()), starting=(0, 1), owner=(0, 0), rebalances=1, crashes=0,
    losses=False, warm=True)
TWO_INSTANCES_LOSSES = Config(
    "two instances, losses", "the same with one topic, a dead letter, lost and late requests",
    messages=(2,), malformed=((1,),), starting=(0, 1), owner=(0,), rebalances=1, crashes=0,
    goal=(0,), warm=True)
TWO_INSTANCES_CRASH = Config(
    "two instances, crash", "the same with a supervisor that dies instead",
    messages=(2,), malformed=((),), starting=(0, 1), owner=(0,), rebalances=1,
    workers_crash=False, losses=False, goal=(0,), warm=True)
REFUSED_TABLE = Config(
    "refused table", "the bronze table of topic 1 never takes a commit; topic 0 must get on",
    messages=(2, 2), malformed=((), ()), refused=(1,), deadlines=True, goal=(0,), crashes=0,
    losses=False)
REFUSED_FOR_A_WHILE = Config(
    "refused for a while", "it takes commits again at any moment, everything must land",
    messages=(1, 2), malformed=((), (1,)), refused=(1,), deadlines=True, heals=True, crashes=0,
    losses=False)
TRIMMING = Config(
    "trimming", "complete records are trimmed while a dead supervisor's put is under way",
    messages=(2,), malformed=((),), owner=(0,), trimming=True, workers_crash=False, goal=(0,))
TRIMMING_FROZEN = Config(
    "trimming, frozen", "a second service of our identity freezes while the log is trimmed",
    messages=(2,), malformed=((),), owner=(0,), trimming=True, spares=(0,), crashes=0,
    losses=False, goal=(0,))
TRIMMING_TWO_INSTANCES = Config(
    "trimming, two instances", "one instance freezes while the other writes and trims",
    messages=(2,), malformed=((),), starting=(0, 1), owner=(0,), trimming=True, rebalances=1,
    crashes=0, losses=False, goal=(0,), warm=True)

ALL = (
    ONE_SERVICE, WORKERS_ONLY, FIRST_START, FIRST_START_WITH_OFFSETS, TWO_OF_ONE_IDENTITY,
    TWO_OF_ONE_IDENTITY_LOSSES, TWO_INSTANCES, TWO_INSTANCES_LOSSES, TWO_INSTANCES_CRASH,
    REFUSED_TABLE, REFUSED_FOR_A_WHILE, TRIMMING, TRIMMING_FROZEN, TRIMMING_TWO_INSTANCES,
)
