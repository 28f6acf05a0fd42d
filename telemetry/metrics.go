package telemetry

// Metric names one row of the table of metrics.
type Metric uint8

// The metrics, in the order of a change's way. Each has its row in table.
const (
	// MetricCollectEvents counts changes taken up at the source.
	MetricCollectEvents Metric = iota
	// MetricCollectUnchanged counts observations that said nothing new.
	MetricCollectUnchanged
	// MetricCollectErrors counts failures of watches and lists.
	MetricCollectErrors
	// MetricCollectObjects is the number of objects in the inventory.
	MetricCollectObjects
	// MetricCollectHeld is the number of entries no sweep may delete.
	MetricCollectHeld
	// MetricCollectRefused is the number of objects that are not published though selected.
	MetricCollectRefused
	// MetricCollectRulesFailing is 1 while changed rules of stage source do not compile.
	MetricCollectRulesFailing
	// MetricOutboxObjects is the number of changes not durable yet.
	MetricOutboxObjects
	// MetricOutboxBytes is what their bodies occupy.
	MetricOutboxBytes
	// MetricOutboxBlocked is the number of them that the log cannot take now.
	MetricOutboxBlocked
	// MetricPublishEvents counts events made durable.
	MetricPublishEvents
	// MetricPublishErrors counts batches that failed.
	MetricPublishErrors
	// MetricPublishSeconds is the time to make one batch durable.
	MetricPublishSeconds
	// MetricLogBytes is what the history of a site occupies.
	MetricLogBytes
	// MetricCurrentFullRatio is how much of its limit a site's current state occupies.
	MetricCurrentFullRatio
	// MetricHistoryReachSeconds is how far back a site can be read.
	MetricHistoryReachSeconds
	// MetricLogReconnects counts connections to the log that were made again.
	MetricLogReconnects
	// MetricLogGaps counts findings that the log has lost records.
	MetricLogGaps
	// MetricLinkConnected is 1 while the other end of a link is heard of.
	MetricLinkConnected
	// MetricLinkLagEvents is the number of records that are not known to be copied.
	MetricLinkLagEvents
	// MetricLinkLagSeconds is how long ago a copy was last known to be complete.
	MetricLinkLagSeconds
	// MetricPumpResults counts settled records by what became of them.
	MetricPumpResults
	// MetricPumpRetries counts attempts that failed and will be repeated.
	MetricPumpRetries
	// MetricPumpParked counts records put into the dead letters.
	MetricPumpParked
	// MetricPumpPending is the number of records held and not settled.
	MetricPumpPending
	// MetricTransformSeconds is the time of the rules for one object.
	MetricTransformSeconds
	// MetricApplySeconds is the time of one attempt at the destination.
	MetricApplySeconds
	// MetricApplyLatencySeconds is the time from observation to the destination.
	MetricApplyLatencySeconds
	// MetricInventoryObjects is the number of copies known at the destination.
	MetricInventoryObjects
	// MetricReplicationLagEvents is the number of records not settled yet.
	MetricReplicationLagEvents
	// MetricReplicationLagSeconds is the age of the oldest of them.
	MetricReplicationLagSeconds
	// MetricReplicationObjects is the number of objects by state.
	MetricReplicationObjects
	// MetricReplicationStatusWrites counts writes of status.
	MetricReplicationStatusWrites
	// MetricReplicationRestarts counts runs that began anew after an error.
	MetricReplicationRestarts
	// MetricLeader is 1 while this process leads.
	MetricLeader
	// MetricConfigErrors counts configuration files that were not applied.
	MetricConfigErrors
	// MetricBuild is 1, with the version as attribute.
	MetricBuild
	metricCount
)

// instrument is the kind of a metric.
type instrument uint8

const (
	counter instrument = iota + 1
	gauge
	histogram
)

func (i instrument) String() string {
	switch i {
	case counter:
		return "counter"
	case gauge:
		return "gauge"
	case histogram:
		return "histogram"
	}
	return "unknown"
}

// row describes one metric: all there is to know of it.
type row struct {
	name  string
	kind  instrument
	unit  string // UCUM: "s", "By", "{event}"
	help  string
	attrs []string
}

// table holds every metric. docs/metrics.md is generated from it.
var table = [metricCount]row{
	MetricCollectEvents:           {"drsyncer_collect_events_total", counter, "{event}", "Changes taken up at the source, by kind and operation.", []string{KeySite, KeyKind, KeyOp}},
	MetricCollectUnchanged:        {"drsyncer_collect_unchanged_total", counter, "{event}", "Observations whose cleaned object was what the log already holds.", []string{KeySite, KeyKind}},
	MetricCollectErrors:           {"drsyncer_collect_errors_total", counter, "{error}", "Failures of lists and watches at the source.", []string{KeySite, KeyKind}},
	MetricCollectObjects:          {"drsyncer_collect_objects", gauge, "{object}", "Objects in the collector's inventory.", []string{KeySite}},
	MetricCollectHeld:             {"drsyncer_collect_held_objects", gauge, "{object}", "Entries from before a reset of the source, which no sweep may delete.", []string{KeySite}},
	MetricCollectRefused:          {"drsyncer_collect_refused_objects", gauge, "{object}", "Selected objects that are not published: a rule of stage source fails on them, they cannot be read, or the log never takes them.", []string{KeySite}},
	MetricCollectRulesFailing:     {"drsyncer_collect_rules_failing", gauge, "1", "1 while the rules of stage source, as the ConfigMaps have them, do not compile; former ones stay in force.", []string{KeySite}},
	MetricOutboxObjects:           {"drsyncer_outbox_objects", gauge, "{object}", "Changed objects that are not durable yet.", []string{KeySite}},
	MetricOutboxBytes:             {"drsyncer_outbox_bytes", gauge, "By", "Memory that the bodies in the outbox occupy.", []string{KeySite}},
	MetricOutboxBlocked:           {"drsyncer_outbox_blocked_objects", gauge, "{object}", "Changed objects that the log cannot take now, while it takes others: too large for the room it has.", []string{KeySite}},
	MetricPublishEvents:           {"drsyncer_publish_events_total", counter, "{event}", "Events made durable in the log.", []string{KeySite}},
	MetricPublishErrors:           {"drsyncer_publish_errors_total", counter, "{error}", "Batches that could not be made durable and are tried again.", []string{KeySite}},
	MetricPublishSeconds:          {"drsyncer_publish_seconds", histogram, "s", "Time to make one batch durable.", []string{KeySite}},
	MetricLogBytes:                {"drsyncer_log_bytes", gauge, "By", "Size of the current epoch of a site's history.", []string{KeySite}},
	MetricCurrentFullRatio:        {"drsyncer_current_full_ratio", gauge, "1", "Part of its size limit that the current state of a site occupies. At 1 it takes up nothing more; --current-max-bytes raises the limit.", []string{KeySite}},
	MetricHistoryReachSeconds:     {"drsyncer_history_reach_seconds", gauge, "s", "How far back every moment of a site can be read.", []string{KeySite}},
	MetricLogReconnects:           {"drsyncer_log_reconnects_total", counter, "{connection}", "Connections to the log that were lost and made again.", nil},
	MetricLogGaps:                 {"drsyncer_log_gaps_total", counter, "{gap}", "Findings, at the opening or reading of a log, that it has lost records it should have. The collector answers by putting everything anew.", []string{KeySite}},
	MetricLinkConnected:           {"drsyncer_link_connected", gauge, "1", "1 while the other end of the link of a site is heard of and the history is copied. Both ends have it, and the two that follow.", []string{KeySite}},
	MetricLinkLagEvents:           {"drsyncer_link_lag_events", gauge, "{event}", "Records of a site's history that are not known to be in its copy at the other end of the link; at the destination, of those it was told of.", []string{KeySite}},
	MetricLinkLagSeconds:          {"drsyncer_link_lag_seconds", gauge, "s", "Time since the copy of a site's history was last known to be complete; a few seconds while all is well.", []string{KeySite}},
	MetricPumpResults:             {"drsyncer_pump_results_total", counter, "{event}", "Records settled, by what became of them.", []string{KeyReplication, KeyKind, KeyResult}},
	MetricPumpRetries:             {"drsyncer_pump_retries_total", counter, "{attempt}", "Attempts that failed and are repeated, by class of failure.", []string{KeyReplication, KeyKind, KeyReason}},
	MetricPumpParked:              {"drsyncer_pump_parked_total", counter, "{event}", "Records put into the dead letters, by class of failure.", []string{KeyReplication, KeyKind, KeyReason}},
	MetricPumpPending:             {"drsyncer_pump_pending", gauge, "{event}", "Records held and not settled.", []string{KeyReplication}},
	MetricTransformSeconds:        {"drsyncer_transform_seconds", histogram, "s", "Time of all rules over one object that some match.", []string{KeyKind}},
	MetricApplySeconds:            {"drsyncer_apply_seconds", histogram, "s", "Time of one attempt at the destination.", []string{KeyKind, KeyResult}},
	MetricApplyLatencySeconds:     {"drsyncer_apply_latency_seconds", histogram, "s", "Time from the observation of a change to its arrival at the destination.", []string{KeyReplication}},
	MetricInventoryObjects:        {"drsyncer_inventory_objects", gauge, "{object}", "Copies known at the destination.", []string{KeyKind}},
	MetricReplicationLagEvents:    {"drsyncer_replication_lag_events", gauge, "{event}", "Records of the log that are not settled yet.", []string{KeyReplication}},
	MetricReplicationLagSeconds:   {"drsyncer_replication_lag_seconds", gauge, "s", "Age of the oldest record that is not settled yet.", []string{KeyReplication}},
	MetricReplicationObjects:      {"drsyncer_replication_objects", gauge, "{object}", "Objects of a Replication by state: synced, pending, failed, parked.", []string{KeyReplication, KeyState}},
	MetricReplicationStatusWrites: {"drsyncer_replication_status_writes_total", counter, "{request}", "Writes of a Replication's status.", []string{KeyReplication}},
	MetricReplicationRestarts:     {"drsyncer_replication_restarts_total", counter, "{run}", "Runs that ended with an error and began anew.", []string{KeyReplication}},
	MetricLeader:                  {"drsyncer_leader", gauge, "1", "1 while this process leads.", nil},
	MetricConfigErrors:            {"drsyncer_config_errors_total", counter, "{file}", "Changed configuration files that were bad: the former configuration stays.", nil},
	MetricBuild:                   {"drsyncer_build_info", gauge, "1", "Always 1; the version is an attribute.", []string{KeyVersion}},
}

// Name is the metric's name at /metrics.
func (m Metric) Name() string {
	if m >= metricCount {
		return "unknown"
	}
	return table[m].name
}
