package telemetry

// Keys of log records and span attributes: one word for one thing, everywhere.
const (
	KeySite        = "site"
	KeyKind        = "kind" // "resource" or "group/resource"
	KeyNamespace   = "namespace"
	KeyName        = "name"
	KeyUID         = "uid"
	KeyVersion     = "version" // resourceVersion at the source
	KeyOp          = "op"
	KeyEpoch       = "epoch"
	KeySequence    = "sequence"
	KeyReplication = "replication" // namespace/name
	KeyReason      = "reason"
	KeyAttempt     = "attempt"
	KeyResult      = "result"
	KeyCount       = "count"
	KeyHeld        = "held" // of objects: from before the epoch
	KeyDuration    = "duration"
	KeyError       = "error"
	KeyStack       = "stack" // of a panic
	KeyURL         = "url"
	KeyPath        = "path"
	KeyState       = "state" // of objects: synced, pending, failed, parked
	KeyKept        = "kept"  // what was not deleted
	KeyUnit        = "unit"  // part of a program that starts and stops
	KeyAddress     = "address"
	KeyOldest      = "oldest" // moment that can be read
	KeyFreeBytes   = "free_bytes"
	KeyUsedBytes   = "used_bytes"
	KeyLimitBytes  = "limit_bytes"
	KeySignal      = "signal"
	KeyRules       = "rules"     // that ran, by name
	KeyConfigMap   = "configmap" // namespace/name
	KeyPhase       = "phase"
	KeyTraceID     = "trace_id"
	KeySpanID      = "span_id"
)

// Names of spans: the steps of one change.
const (
	SpanCollect   = "collect"   // observed at the source, until it is durable
	SpanPublish   = "publish"   // one batch written to the log
	SpanConsume   = "consume"   // taken from the log, until it is settled
	SpanTransform = "transform" // rules
	SpanApply     = "apply"     // one attempt at the destination
)
