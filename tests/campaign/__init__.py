"""The fault campaign: real processes killed, disks that fail and fill, long random histories."""
