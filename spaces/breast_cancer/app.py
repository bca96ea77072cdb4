"""The demo of the model `breast_cancer`: labels, results and limits come from the model's own folder.

DEMO_MODEL=RUN_OR_REPO_ID python app.py
"""

from hub_utils.portable.demo import build_demo

demo = build_demo("breast_cancer")

if __name__ == "__main__":
    demo.launch()
