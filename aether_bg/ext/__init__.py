"""Parts that connect aether_bg with other libraries; each needs the extra of its name."""
