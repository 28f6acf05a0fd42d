package natslog

import (
	"context"
	"fmt"
	"slices"
)

// Sites lists the sites that have a history in the log, by name. It needs to see all
// streams: a site's user at the embedded server does not.
func (c *Conn) Sites(ctx context.Context) ([]string, error) {
	var sites []string
	err := c.do(ctx, func(ctx context.Context) error {
		lister := c.js.ListStreams(ctx)
		for info := range lister.Info() {
			name := info.Config.Metadata[metaSite]
			if _, ok := siteOf(name).epochOf(info.Config.Name); ok && name != "" {
				sites = append(sites, name)
			}
		}
		return lister.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	slices.Sort(sites)
	return slices.Compact(sites), nil
}
