package kube

import (
	"context"
	"errors"
	"fmt"

	"github.com/dr-syncer/dr-syncer/pipeline"
)

// Find reads the objects of a kind that a label selector matches, with their bodies, in one namespace or, if
// none is given, in all. It is a consistent read of the present state, for kinds and selectors that match few:
// everything is in memory at once.
func (c *Client) Find(ctx context.Context, k Kind, namespace, selector string) ([]Object, error) {
	var found []Object
	for next := ""; ; {
		r := c.rest.Get().AbsPath(k.path(namespace, "")).Param("limit", pageSize).SetHeader("Accept", acceptJSON)
		if selector != "" {
			r = r.Param("labelSelector", selector)
		}
		if next != "" {
			r = r.Param("continue", next)
		}
		body, err := c.do(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", k.GroupResource, err)
		}
		page, err := decodeList(body, k)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", k.GroupResource, pipeline.WithClass(pipeline.Malformed, err))
		}
		for _, t := range page.Items {
			found = append(found, t.Object)
		}
		if next = page.Continue; next == "" {
			return found, nil
		}
	}
}

// maxLog bounds what LastLines reads.
const maxLog = 64 << 10

// LastLines returns the last lines, 20 at most, that the only container of a Pod has written.
func (c *Client) LastLines(ctx context.Context, namespace, pod string) ([]byte, error) {
	if namespace == "" || pod == "" {
		return nil, errors.New("read the last lines of a pod: it has no name")
	}
	text, err := c.do(ctx, c.rest.Get().
		AbsPath("/api/v1/namespaces/"+namespace+"/pods/"+pod+"/log").
		Param("tailLines", "20").Param("limitBytes", fmt.Sprint(maxLog)))
	if err != nil {
		return nil, fmt.Errorf("read the last lines of pod %q in namespace %q: %w", pod, namespace, err)
	}
	return text[:min(len(text), maxLog)], nil
}
