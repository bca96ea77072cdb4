"""Several demos behind one door: labels, results and limits come from the model's own folder.

python app.py
"""

from hub_utils.portable.demo import build_suite

demo = build_suite(["digits", "flowers", "rocks", "leukemia", "breast_cancer", "dog_breeds"])

if __name__ == "__main__":
    demo.launch()
