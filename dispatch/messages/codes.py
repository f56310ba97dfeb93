"""The error codes of the wire (PROTOCOL 4): what each one says, and to whom it matters."""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Travels as a plain string in `error.code`, `ui_event.error_code` and `job_result.error.code`."""

    INVALID_MESSAGE = "INVALID_MESSAGE"  #: the frame cannot be understood; the socket lives on
    INTERNAL_ERROR = "INTERNAL_ERROR"  #: the frame was understood, but handling it failed
    INVALID_SESSION = "INVALID_SESSION"  #: the frame names a session that does not exist
    SESSION_CLOSED = "SESSION_CLOSED"  #: the session has ended
    NODE_UNAVAILABLE = "NODE_UNAVAILABLE"  #: the chosen node could not be reached
    NODE_OVERLOADED = "NODE_OVERLOADED"  #: the node, or every waiting place, is full
    MODEL_NOT_AVAILABLE = "MODEL_NOT_AVAILABLE"  #: the node lacks a service that the job needs
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"  #: the node has the model and cannot load it
    MODEL_VERIFY_FAILED = "MODEL_VERIFY_FAILED"  #: the node's copy of the model does not match its checksum
    MODEL_CORRUPTED = "MODEL_CORRUPTED"  #: the node's copy of the model is damaged
    UNSUPPORTED_FEATURE = "UNSUPPORTED_FEATURE"  #: a wished feature is not offered
    INVALID_PAIRING_CODE = "INVALID_PAIRING_CODE"  #: the pairing code is unknown or has expired
    NO_AVAILABLE_NODE = "NO_AVAILABLE_NODE"  #: no connected node may and can do the job
    WS_DISCONNECTED = "WS_DISCONNECTED"  #: the node lost a connection that it needed for the job
    NMT_TIMEOUT = "NMT_TIMEOUT"  #: the node's translation took too long
    TTS_TIMEOUT = "TTS_TIMEOUT"  #: the node's speech synthesis took too long
    PROCESSING_ERROR = "PROCESSING_ERROR"  #: the node failed for any other reason
    JOB_TIMEOUT = "JOB_TIMEOUT"  #: the job waited or ran too long
    RESULT_TIMEOUT = "RESULT_TIMEOUT"  #: the utterance's deadline passed without a result
    NO_GPU_AVAILABLE = "NO_GPU_AVAILABLE"  #: a registration without any GPU
    NODE_ID_CONFLICT = "NODE_ID_CONFLICT"  #: another connection owns this node id and keeps it
    INVALID_CAPABILITY_SCHEMA = "INVALID_CAPABILITY_SCHEMA"  #: a registration in a schema nobody knows
    SCHEDULER_DEPENDENCY_DOWN = "SCHEDULER_DEPENDENCY_DOWN"  #: the scheduler could not reach its own store


#: A node's failure after which another node may well succeed. What speaks of this node's models, load or links is
#: plainly so. `PROCESSING_ERROR` is the real agent's word for everything else, a crashed model service as well as
#: audio that nobody can decode; since attempts are few, trying it elsewhere costs little and saves many utterances.
#: The rest judge the request or the scheduler, and would be the same on every node.
RETRYABLE_ELSEWHERE: frozenset[str] = frozenset(
    {
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.NODE_OVERLOADED,
        ErrorCode.MODEL_NOT_AVAILABLE,
        ErrorCode.MODEL_LOAD_FAILED,
        ErrorCode.MODEL_VERIFY_FAILED,
        ErrorCode.MODEL_CORRUPTED,
        ErrorCode.UNSUPPORTED_FEATURE,
        ErrorCode.NO_AVAILABLE_NODE,
        ErrorCode.WS_DISCONNECTED,
        ErrorCode.NMT_TIMEOUT,
        ErrorCode.TTS_TIMEOUT,
        ErrorCode.PROCESSING_ERROR,
    }
)

_HINTS: dict[str, str] = {
    ErrorCode.INVALID_MESSAGE: "收到的数据格式不正确,请更新客户端后重试。",
    ErrorCode.INTERNAL_ERROR: "服务内部出错,请稍后重试。",
    ErrorCode.INVALID_SESSION: "会话不存在,请重新连接。",
    ErrorCode.SESSION_CLOSED: "会话已结束,请重新开始。",
    ErrorCode.NODE_UNAVAILABLE: "翻译设备暂时无法连接,请稍后再说一遍。",
    ErrorCode.NODE_OVERLOADED: "当前使用人数较多,请稍后再说一遍。",
    ErrorCode.MODEL_NOT_AVAILABLE: "所需的翻译模型尚未就绪,请稍后再试。",
    ErrorCode.MODEL_LOAD_FAILED: "翻译模型加载失败,请稍后再试。",
    ErrorCode.MODEL_VERIFY_FAILED: "翻译模型校验未通过,请稍后再试。",
    ErrorCode.MODEL_CORRUPTED: "翻译模型文件已损坏,请稍后再试。",
    ErrorCode.UNSUPPORTED_FEATURE: "暂不支持所选功能,请关闭后重试。",
    ErrorCode.INVALID_PAIRING_CODE: "配对码无效或已过期,请重新获取。",
    ErrorCode.NO_AVAILABLE_NODE: "目前没有可用的翻译设备,请稍后再试。",
    ErrorCode.WS_DISCONNECTED: "翻译设备的连接中断,请再说一遍。",
    ErrorCode.NMT_TIMEOUT: "翻译用时过长,请再说一遍。",
    ErrorCode.TTS_TIMEOUT: "语音合成用时过长,请再说一遍。",
    ErrorCode.PROCESSING_ERROR: "这句话处理失败,请再说一遍。",
    ErrorCode.JOB_TIMEOUT: "这句话处理超时,请再说一遍。",
    ErrorCode.RESULT_TIMEOUT: "等待结果超时,请再说一遍。",
    ErrorCode.NO_GPU_AVAILABLE: "此设备没有可用的显卡,无法提供翻译服务。",
    ErrorCode.NODE_ID_CONFLICT: "该设备编号正在被另一个连接使用。",
    ErrorCode.INVALID_CAPABILITY_SCHEMA: "设备端软件版本不兼容,请更新。",
    ErrorCode.SCHEDULER_DEPENDENCY_DOWN: "服务暂时不可用,正在恢复,请稍后再试。",
}


def hint(code: str) -> str:
    """A short Chinese sentence for the end user (`ui_event.hint`); a general one for codes that only a node knows."""
    return _HINTS.get(code, "处理时出现问题,请再说一遍。")
