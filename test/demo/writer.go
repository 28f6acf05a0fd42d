package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// resources are the kinds that the script writes.
var resources = map[string]schema.GroupVersionResource{
	"Namespace":                {Version: "v1", Resource: "namespaces"},
	"ConfigMap":                {Version: "v1", Resource: "configmaps"},
	"Secret":                   {Version: "v1", Resource: "secrets"},
	"Service":                  {Version: "v1", Resource: "services"},
	"Deployment":               {Group: "apps", Version: "v1", Resource: "deployments"},
	"CronJob":                  {Group: "batch", Version: "v1", Resource: "cronjobs"},
	"Ingress":                  {Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"},
	"CustomResourceDefinition": {Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	"Coupon":                   {Group: "shop.example.com", Version: "v1", Resource: "coupons"},
	"GiftCard":                 {Group: "shop.example.com", Version: "v1", Resource: "giftcards"},
}

// writer changes prod as its users do. It shares nothing with the product.
type writer struct{ client dynamic.Interface }

func newWriter(kubeconfig string) (*writer, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("connect to prod: %w", err)
	}
	config.QPS = -1
	config.UserAgent = "a-user-of-prod"
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to prod: %w", err)
	}
	return &writer{client}, nil
}

func (w *writer) at(kind, namespace string) (dynamic.ResourceInterface, error) {
	r, ok := resources[kind]
	if !ok {
		return nil, fmt.Errorf("the script does not know the kind %s", kind)
	}
	return w.client.Resource(r).Namespace(namespace), nil
}

// patch merges the JSON into the object.
func (w *writer) patch(ctx context.Context, kind, namespace, name, merge string) error {
	at, err := w.at(kind, namespace)
	if err != nil {
		return err
	}
	if _, err := at.Patch(ctx, name, types.MergePatchType, []byte(merge), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("patch %s in prod: %w", keyOf(kind, namespace, name), err)
	}
	return nil
}

// create creates the one object in text.
func (w *writer) create(ctx context.Context, text string) error {
	o := &unstructured.Unstructured{}
	if err := yaml.NewYAMLOrJSONDecoder(bytes.NewBufferString(text), 4096).Decode(o); err != nil {
		return fmt.Errorf("read object: %w", err)
	}
	at, err := w.at(o.GetKind(), o.GetNamespace())
	if err != nil {
		return err
	}
	if _, err := at.Create(ctx, o, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create %s in prod: %w", keyOf(o.GetKind(), o.GetNamespace(), o.GetName()), err)
	}
	return nil
}

func (w *writer) delete(ctx context.Context, kind, namespace, name string) error {
	at, err := w.at(kind, namespace)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	if err := at.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		return fmt.Errorf("delete %s in prod: %w", keyOf(kind, namespace, name), err)
	}
	return nil
}

// keysOf lists the objects in YAML text.
func keysOf(text []byte) ([]string, error) {
	var keys []string
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return keys, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the application: %w", err)
		}
		if o.GetKind() != "" {
			keys = append(keys, keyOf(o.GetKind(), o.GetNamespace(), o.GetName()))
		}
	}
}
