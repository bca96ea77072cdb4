"""The demo of the model `flowers`: labels, results and limits come from the model's own folder.

DEMO_MODEL=RUN_OR_REPO_ID python app.py
"""

from hub_utils.portable.demo import build_demo

demo = build_demo("flowers")

if __name__ == "__main__":
    demo.launch()
