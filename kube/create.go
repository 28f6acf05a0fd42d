package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

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
