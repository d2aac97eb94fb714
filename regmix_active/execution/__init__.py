"""Where proxy jobs run. An executor knows files and devices; what a job means is the proxy room's business."""
