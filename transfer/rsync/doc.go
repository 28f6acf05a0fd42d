// Package rsync copies a volume's files with rsync, over streams that it is given.
package rsync
