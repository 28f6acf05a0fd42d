package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
)

// Create makes an object that is not there, and returns it as the server keeps it. One of
// the name that is there already is IsExists: of many who create at once, one succeeds.
func (c *Client) Create(ctx context.Context, k Kind, namespace string, body []byte) (Object, error) {
	answer, err := c.do(ctx, c.rest.Post().
		AbsPath(k.path(namespace, "")).
		Param("fieldManager", v1alpha1.FieldManager).
		SetHeader("Content-Type", acceptJSON).
		SetHeader("Accept", acceptJSON).
		Body(body))
	if err != nil {
		return Object{}, fmt.Errorf("create %s in namespace %q: %w", k.GroupResource, namespace, err)
	}
	o, err := identify(answer, k)
	if err != nil {
		return Object{}, fmt.Errorf("create %s in namespace %q: %w", k.GroupResource, namespace, err)
	}
	o.Raw = answer
	return o, nil
}

// IsExists reports that an object of the name is there already.
func IsExists(err error) bool { return apierrors.IsAlreadyExists(err) }

// Merge changes the fields of an object that body has, and no others (a JSON merge patch). If body has metadata.uid, the
// server refuses (IsConflict) unless that very object exists. It may be repeated.
func (c *Client) Merge(ctx context.Context, k Kind, namespace, name string, body []byte) error {
	_, err := c.do(ctx, c.rest.Patch(types.MergePatchType).
		AbsPath(k.path(namespace, name)).
		Param("fieldManager", v1alpha1.FieldManager+"-merge").
		SetHeader("Accept", acceptMeta+","+acceptJSON).
		Body(body))
	if err != nil {
		return fmt.Errorf("change %s: %w", title(k, namespace, name), err)
	}
	return nil
}
