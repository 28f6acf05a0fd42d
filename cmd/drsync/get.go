package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/dr-syncer/dr-syncer/pipeline"
	"github.com/dr-syncer/dr-syncer/replay"
)

func (c *cli) getCommand() *cobra.Command {
	var o wantedObject
	at := ""
	cmd := &cobra.Command{
		Use:   "get KIND NAME",
		Short: "Show an object as the source had it, now or at a moment in the past",
		Long: `Get shows one object as the log holds it: without what belongs to the source cluster
alone. What Secrets hold is masked.

A moment is a time such as 2006-01-02T15:04:05Z, an age such as 90m, a position
EPOCH/SEQUENCE or the name of a snapshot.`,
		Example: "  drsync get deployment web -n shop --at 2h -o yaml --nats-url nats://dr.example.com:4222",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.kind, o.name = args[0], args[1]
			return c.withPast(cmd.Context(), func(past *replay.Past) error { return c.get(cmd.Context(), past, o, at) })
		},
	}
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of the object; none for one of the whole cluster")
	cmd.Flags().StringVar(&at, "at", "", "the moment in the past; now if not given")
	c.siteFlag(cmd)
	c.logFlags(cmd)
	c.secretsFlag(cmd)
	return cmd
}

func (c *cli) get(ctx context.Context, past *replay.Past, o wantedObject, at string) error {
	moment, err := locate(ctx, past, at)
	if err != nil {
		return err
	}
	rec, err := o.find(ctx, past, moment.Position)
	if err != nil {
		return err
	}
	if rec.Op != pipeline.OpPut {
		return fmt.Errorf("%s did not exist at %s: the log has its %s at %s", rec.Ref, moment.Position, rec.Op, rec.Position)
	}
	body := json.RawMessage(rec.Body)
	if !c.showSecrets && rec.Ref.GroupResource() == secrets {
		if body, err = maskSecret(body); err != nil {
			return err
		}
	}
	return c.show(body, func(p *printer) {
		text, err := yaml.JSONToYAML(body)
		if err != nil {
			text = append(body, '\n')
		}
		p.printf(plain, "%s", text)
	})
}

// maskSecret hides what a Secret holds, and its annotations, which may repeat it.
func maskSecret(body []byte) ([]byte, error) {
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	hide := func(in map[string]any, field string) {
		values, ok := in[field].(map[string]any)
		if !ok {
			delete(in, field)
		}
		for key := range values {
			values[key] = masked
		}
	}
	hide(object, "data")
	hide(object, "stringData")
	if metadata, ok := object["metadata"].(map[string]any); ok {
		hide(metadata, "annotations")
	}
	out, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("write the secret: %w", err)
	}
	return out, nil
}
