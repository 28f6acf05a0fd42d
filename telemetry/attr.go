package telemetry

import "go.opentelemetry.io/otel/attribute"

// Attr is one attribute of a span or a metric sample.
type Attr = attribute.KeyValue

// String makes an attribute with a text value.
func String(key, value string) Attr { return attribute.String(key, value) }

// Strings makes an attribute with several text values.
func Strings(key string, values []string) Attr { return attribute.StringSlice(key, values) }

// Int makes an attribute with a whole number.
func Int(key string, n int) Attr { return attribute.Int(key, n) }

// Int64 makes an attribute with a whole number.
func Int64(key string, n int64) Attr { return attribute.Int64(key, n) }
