package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// Get reads one object with its body.
func (c *Client) Get(ctx context.Context, k Kind, namespace, name string) (Object, error) {
	body, err := c.do(ctx, c.rest.Get().AbsPath(k.path(namespace, name)).SetHeader("Accept", acceptJSON))
	if err != nil {
		return Object{}, fmt.Errorf("get %s: %w", title(k, namespace, name), err)
	}
	o, err := identify(body, k)
	if err != nil {
		return Object{}, fmt.Errorf("get %s: %w", title(k, namespace, name), err)
	}
	o.Raw = body
	return o, nil
}

// Apply makes the object be as body says, with a server-side apply as our field
// manager that takes the fields it sets from whoever has them. If body has metadata.uid, the server
// refuses (IsConflict) unless that very object exists. created tells a new object from a
// changed one. It may be repeated: an object that is as body says is not written.
func (c *Client) Apply(ctx context.Context, k Kind, namespace, name string, body []byte) (m Meta, created bool, err error) {
	result := c.rest.Patch(types.ApplyPatchType).
		AbsPath(k.path(namespace, name)).
		Param("fieldManager", v1alpha1.FieldManager).
		Param("force", "true").
		SetHeader("Accept", acceptMeta).
		Body(body).
		Do(quiet(ctx))
	if err := result.Error(); err != nil {
		return Meta{}, false, fmt.Errorf("apply %s: %w", title(k, namespace, name), classify(err))
	}
	var code int
	answer, err := result.StatusCode(&code).Raw()
	if err != nil {
		return Meta{}, false, fmt.Errorf("apply %s: %w", title(k, namespace, name), classify(err))
	}
	m, err = metaOf(answer)
	if err != nil {
		return Meta{}, false, fmt.Errorf("apply %s: %w", title(k, namespace, name), err)
	}
	return m, code == http.StatusCreated, nil
}

// Rehearse is Apply with nothing written: it returns the object as it would be, as far as the
// server can tell.
func (c *Client) Rehearse(ctx context.Context, k Kind, namespace, name string, body []byte) (Object, error) {
	answer, err := c.do(ctx, c.rest.Patch(types.ApplyPatchType).
		AbsPath(k.path(namespace, name)).
		Param("fieldManager", v1alpha1.FieldManager).
		Param("force", "true").
		Param("dryRun", "All").
		SetHeader("Accept", acceptJSON).
		Body(body))
	if err != nil {
		return Object{}, fmt.Errorf("rehearse %s: %w", title(k, namespace, name), err)
	}
	o, err := identify(answer, k)
	if err != nil {
		return Object{}, fmt.Errorf("rehearse %s: %w", title(k, namespace, name), err)
	}
	o.Raw = answer
	return o, nil
}

// Delete deletes the object if it still has the UID; its dependents follow in the
// background. An object that is gone already is no error; one with another UID is
// (IsConflict). An empty uid deletes whatever has the name.
func (c *Client) Delete(ctx context.Context, k Kind, namespace, name, uid string) error {
	type preconditions struct {
		UID string `json:"uid"`
	}
	options := struct {
		Kind              string         `json:"kind"`
		APIVersion        string         `json:"apiVersion"`
		PropagationPolicy string         `json:"propagationPolicy"`
		Preconditions     *preconditions `json:"preconditions,omitempty"`
	}{Kind: "DeleteOptions", APIVersion: "v1", PropagationPolicy: "Background"}
	if uid != "" {
		options.Preconditions = &preconditions{UID: uid}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return fmt.Errorf("delete %s: %w", title(k, namespace, name), err)
	}
	_, err = c.do(ctx, c.rest.Delete().
		AbsPath(k.path(namespace, name)).
		SetHeader("Content-Type", acceptJSON).
		SetHeader("Accept", acceptMeta+","+acceptJSON).
		Body(body))
	if err != nil && !IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", title(k, namespace, name), err)
	}
	return nil
}

// title names an object in errors.
func title(k Kind, namespace, name string) string {
	if namespace == "" {
		return fmt.Sprintf("%s %q", k.GroupResource, name)
	}
	return fmt.Sprintf("%s %q in namespace %q", k.GroupResource, name, namespace)
}
