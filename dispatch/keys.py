"""Every Redis key this product uses, built here and nowhere else.

`{…}` is the hash tag: keys of one entity share a slot, so that one script may touch them on a cluster. Names that
operators look at keep the spelling of the first generation (DESIGN 10); the rest lives under `P:v1:`.
"""

from functools import lru_cache

CELL_PARTS = (
    "meta",  #: hash: incarnation, job_seq, lease_seq
    "nodes",  #: hash: node id -> packed record with its leases
    "jobs",  #: hash: job id -> packed record
    "classes",  #: hash: class id -> its tokens
    "members",  #: hash: class id -> nodes of that class, those in their grace included
    "free_counts",  #: hash: class id -> nodes of that class with a free slot
    "free",  #: zset, all scores 0: "class node", for every node with a free slot
    "load",  #: hash: node id -> held / limit
    "line",  #: zset, all scores 0: "kind sequence job", for every waiting job
    "heads",  #: zset: kind -> sequence of its oldest waiting job
    "due",  #: zset: step -> time in ms when somebody has to look
    "indexes",  #: hash: session id -> highest utterance index leased
    "foreign",  #: hash: job id -> packed {lease: node}, for leases whose job is not in this cell
)


class Keys:
    """Key names under one prefix (`scheduler.phase2.redis.key_prefix`)."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.cells = f"{prefix}:v1:cells"  #: hash: cell id -> incarnation
        self.instances = f"{prefix}:v1:instances"  #: zset: "instance boot" -> last renewal, ms
        self.nodes_all = f"{prefix}:v1:nodes:all"  #: set: ids of connected nodes
        self.nodes_last_seen = f"{prefix}:v1:nodes:last_seen"  #: zset: node id -> last beat, ms
        self.cell = lru_cache(maxsize=4096)(self._cell)

    def _cell(self, cell: str) -> dict[str, str]:
        """The fixed list of keys of the cell `<pool>#<shard>`, by part."""
        return {part: f"{self.prefix}:v1:{{cell:{cell}}}:{part}" for part in CELL_PARTS}

    def request(self, key: str) -> str:
        """Binding of one request (session + idempotency key + target language) to its job."""
        return f"{self.prefix}:v1:bind:{{req:{key}}}"

    def payload(self, job: str) -> str:
        """The assignment's JSON members, speech included, until the job is over."""
        return f"{self.prefix}:v1:payload:{{job:{job}}}"

    def result(self, job: str, lease: str) -> str:
        """What the node of this lease answered, until the session has it."""
        return f"{self.prefix}:v1:result:{{job:{job}}}:{lease}"

    def presence(self, instance: str) -> str:
        """Life sign of an instance: JSON with started_at, hostname, pid, version, boot."""
        return f"{self.prefix}:schedulers:presence:{instance}"

    def node_owner(self, node: str) -> str:
        """Instance that holds this node's socket."""
        return f"{self.prefix}:nodes:owner:{{node:{node}}}"

    def session_owner(self, session: str) -> str:
        """Instance that holds this session's socket."""
        return f"{self.prefix}:sessions:owner:{{session:{session}}}"

    def session(self, session: str) -> str:
        """The session record: languages, next index, and per utterance its job, cell and verdict."""
        return f"{self.prefix}:v1:session:{{session:{session}}}"

    def inbox(self, instance: str) -> str:
        """Stream of envelopes for this instance."""
        return f"{self.prefix}:streams:{{instance:{instance}}}:inbox"

    def dlq(self, instance: str) -> str:
        """Stream of dead letters of this instance."""
        return f"{self.prefix}:streams:{{instance:{instance}}}:dlq"


def epoch_of(owner_key: str) -> str:
    """The sibling of an owner key that holds the connection epoch; same slot, changed by the same script."""
    return f"{owner_key}:epoch"
